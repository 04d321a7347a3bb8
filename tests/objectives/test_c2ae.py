"""C2AE: a decoder that is told the class, its errors, and the threshold between both kinds."""

import pytest
import torch
from torch import nn

from openset.activations import Activations
from openset.data import batches, load
from openset.detectors import C2AE as Detector
from openset.detectors.c2ae import beyond
from openset.evaluation.metrics import auroc
from openset.extractors.tap import Tap
from openset.networks import cnn, conditioned
from openset.objectives import C2AE
from openset.training.loop import train


def small():
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=8)


def test_the_logits_are_the_classifiers_own():
    plain, image = small().eval(), torch.rand(6, 1, 16, 16)
    assert conditioned(plain).eval()(image).equal(plain(image))


def test_a_frozen_classifier_is_not_touched():
    plain, image = small().eval(), torch.rand(48, 1, 16, 16)
    before = plain(image)
    objective = C2AE(plain, width=4, frozen=True)
    first = next(objective.network.errors.decoder.parameters()).detach().clone()
    train(objective, [(image, torch.arange(48) % 3)], epochs=2, batch_size=16, lr=0.1)
    assert objective.network.classifier(image).equal(before)
    assert not next(objective.network.errors.decoder.parameters()).equal(first)


def test_a_decoder_that_does_not_heed_the_class_errs_alike():
    network, image = conditioned(small()).eval(), torch.rand(5, 1, 16, 16)
    nn.init.zeros_(network.errors.scale.weight)
    nn.init.zeros_(network.errors.shift.weight)
    errors = Tap(network, ["errors"])(image).features["errors"]
    torch.testing.assert_close(errors, errors[:, :1].expand(5, 3))


def test_the_errors_are_those_of_each_condition():
    network, image = conditioned(small()).eval(), torch.rand(4, 1, 32, 32)
    z, redrawn = network.encode(image), network.errors
    errors = Tap(network, ["errors"])(image).features["errors"]
    for i in range(4):
        for k in range(3):
            told = torch.full((1, 3), -1.0)
            told[0, k] = 1
            seen = redrawn.scale(told) * z[i : i + 1] + redrawn.shift(told)
            again = redrawn.decoder(seen.view(1, -1, 1, 1))
            torch.testing.assert_close(errors[i, k], (again[0] - image[i]).abs().mean())


def test_the_loss_is_the_papers():
    objective = C2AE(small(), alpha=0.7, width=4).eval()
    image, label = torch.rand(9, 1, 16, 16), torch.arange(9) % 3
    torch.manual_seed(5)
    loss = objective.decoding(image, label)
    torch.manual_seed(5)
    other = torch.randperm(9).tolist()
    z, draw = objective.network.encode(image), objective.network.errors.draw
    match = [(image[i] - draw(z[[i]], label[[i]], (16, 16))[0]).abs().mean() for i in range(9)]
    non_match = [
        (image[j] - draw(z[[i]], label[[j]], (16, 16))[0]).abs().mean()
        for i, j in enumerate(other)
        if label[i] != label[j]
    ]
    expected = 0.7 * torch.stack(match).mean() + 0.3 * torch.stack(non_match).mean()
    torch.testing.assert_close(loss, expected)


def test_a_batch_of_one_class_has_no_other_to_draw():
    objective = C2AE(small(), alpha=0.5, width=4)
    assert objective.decoding(torch.rand(4, 1, 16, 16), torch.zeros(4, dtype=torch.long)).isfinite()


def test_tails_of_exponential_values_are_exponential():
    quantiles = -(1 - (torch.arange(20000) + 0.5).double() / 20000).log()
    at = torch.tensor([0.5, 1.0, 3.0, 5.0, 8.0]).double()
    found = beyond(quantiles, at, 0.1)
    torch.testing.assert_close(found, (-at).exp(), rtol=0.05, atol=1e-4)


def test_the_threshold_lies_where_both_kinds_are_as_likely():
    generator = torch.Generator().manual_seed(0)
    errors = 0.3 + 0.05 * torch.randn(6000, 3, generator=generator)
    labels = torch.arange(6000) % 3
    errors[torch.arange(6000), labels] -= 0.2
    seen = Activations(errors, {"errors": errors}, labels)
    assert Detector().fit([seen]).tau.item() == pytest.approx(0.2, abs=0.02)
    assert Detector(unknown=0.01).fit([seen]).tau > Detector(unknown=0.99).fit([seen]).tau
    score = Detector().fit([seen])(seen)
    torch.testing.assert_close(score, errors.amin(1) - Detector().fit([seen]).tau)


def test_the_own_class_is_drawn_better_than_others_on_digits():
    data = load("digits", known_classes="0-5")
    torch.manual_seed(0)
    objective = C2AE(cnn(classes=6, channels=1, widths=(16, 32)), width=8)
    train(objective, data.train, epochs=8, batch_size=16, lr=0.02)
    [(image, label)] = batches(data.test, 1000)
    network = objective.network
    with torch.no_grad():
        errors = network.errors(network.encode(image), image)
    own = torch.zeros_like(errors, dtype=torch.bool).scatter_(1, label[:, None], value=True)
    assert auroc(errors[own].numpy(), errors[~own].numpy()) > 0.9


def test_it_refuses_what_is_out_of_range():
    with pytest.raises(ValueError, match="alpha is 2"):
        C2AE(small(), alpha=2)
    with pytest.raises(ValueError, match=r"between 0 and 1; got 0 and 0\.5"):
        Detector(tail=0)
