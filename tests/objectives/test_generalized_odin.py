import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.detectors import GeneralizedODIN as Detector
from openset.extractors.tap import Tap
from openset.model.tune import tune_on_known
from openset.networks import cnn, decomposed
from openset.networks.heads.decomposed import SIMILARITIES
from openset.objectives import CrossEntropy, GeneralizedODIN
from openset.training.loop import train

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)


def network():
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_logit_times_g_is_h(similarity):
    divided = decomposed(network(), similarity)
    seen = Tap(divided, ["similarity", "domain"])(IMAGE)
    g = seen.features["domain"].sigmoid()
    torch.testing.assert_close(seen.logits * g, seen.features["similarity"])


def test_each_similarity_is_what_its_equation_says():
    x, found = torch.randn(5, 16), {}
    for name, make in SIMILARITIES.items():
        found[name] = make(16, 3)
        assert found[name].weight.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.4)
    for i in range(5):
        for c in range(3):
            w = found["cosine"].weight[c]
            cosine = (x[i] * w).sum() / ((x[i].norm() + 1e-4) * (w.norm() + 1e-4))
            torch.testing.assert_close(found["cosine"](x)[i, c], cosine)
            gap = -((x[i] - found["euclidean"].weight[c]) ** 2).mean()
            torch.testing.assert_close(found["euclidean"](x)[i, c], gap)
            inner = (x[i] * found["inner"].weight[c]).sum()
            torch.testing.assert_close(found["inner"](x)[i, c], inner)


def test_cosine_does_not_see_the_length_of_the_features():
    cosine, x = SIMILARITIES["cosine"](16, 3), torch.randn(5, 16)
    torch.testing.assert_close(cosine(1000 * x), cosine(x), rtol=1e-3, atol=1e-4)


def test_with_g_of_one_and_inner_it_is_a_plain_classifier():
    divided = decomposed(network(), "inner")
    norm = divided.domain[1]
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, 40.0)  # g is 1 to single precision, and stays there.
    norm.requires_grad_(False)
    plain = copy.deepcopy(divided.network)
    plain.set_submodule("head", copy.deepcopy(divided.similarity))
    objective = GeneralizedODIN(network(), "inner")
    objective.network = divided
    batches = [(torch.rand(48, 1, 8, 8), torch.arange(48) % 3)]
    how = {"epochs": 3, "batch_size": 16, "lr": 0.05, "weight_decay": 0.0, "device": "cpu"}
    divided, plain = train(objective, batches, **how), train(CrossEntropy(plain), batches, **how)
    torch.testing.assert_close(divided(IMAGE), plain(IMAGE), rtol=1e-4, atol=1e-5)


def test_weight_decay_spares_h_alone():
    batches = [(torch.rand(8, 1, 8, 8), torch.arange(8) % 3)]
    moved = {}
    for decay in (0.0, 0.5):
        objective = GeneralizedODIN(network())
        torch.manual_seed(1)
        objective.network.load_state_dict(GeneralizedODIN(network()).network.state_dict())
        how = {"epochs": 1, "batch_size": 8, "weight_decay": decay, "device": "cpu"}
        moved[decay] = train(objective, batches, **how).state_dict()
    plain, decayed = moved[0.0], moved[0.5]
    assert decayed["similarity.weight"].equal(plain["similarity.weight"])
    assert not decayed["network.neck.2.weight"].equal(plain["network.neck.2.weight"])


def test_a_step_raises_the_part_and_none_is_no_view():
    tap = Tap(decomposed(network()), ["similarity", "domain"])
    for part in ("similarity", "domain"):
        still, moving = Detector(part), Detector(part, epsilon=0.01)
        assert still.view(tap) is tap
        assert (moving(moving.view(tap)(IMAGE)) < still(tap(IMAGE))).all()


def test_scores_rank_by_h_and_by_g():
    seen = Tap(decomposed(network()), ["similarity", "domain"])(IMAGE)
    h, g = seen.features["similarity"], seen.features["domain"].sigmoid().squeeze(1)
    assert Detector()(seen).equal(-h.amax(1))
    assert Detector("domain")(seen).argsort().equal((-g).argsort())


def test_epsilon_is_chosen_on_known_images_among_the_papers():
    tap, label = Tap(decomposed(network()), ["similarity"]), torch.arange(5) % 3
    tuned = tune_on_known(Detector(), known=[(IMAGE, label)], tap=tap)
    sums = {}
    for epsilon in Detector.grid["epsilon"]:
        detector = Detector(epsilon=epsilon)
        sums[epsilon] = -detector(detector.view(tap)(IMAGE)).sum().item()
    assert [figure["epsilon"] for figure in tuned.figures] == list(Detector.grid["epsilon"])
    assert tuned.settings == {"epsilon": max(sums, key=sums.__getitem__)}


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="similarity must be one of cosine, inner, euclidean"):
        GeneralizedODIN(network(), "dot")
    with pytest.raises(ValueError, match="part must be one of similarity, domain"):
        Detector("both")
    with pytest.raises(ValueError, match="epsilon must lie in 0…1"):
        Detector(epsilon=-0.1)


def test_the_loss_is_cross_entropy_of_the_divided_logits():
    objective = GeneralizedODIN(network()).eval()
    label = torch.arange(5) % 3
    ((_, loss),) = objective.step(IMAGE, label)
    torch.testing.assert_close(loss, F.cross_entropy(objective.network(IMAGE), label))
