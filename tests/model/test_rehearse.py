"""Rehearsals: figures beside scikit-learn's, and what the kinds of stand-ins are."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from openset.data import batches
from openset.data.stand_ins import FAR, KINDS, NEAR, StandIns
from openset.detectors import Energy, MaxSoftmax, Temperature
from openset.model.fit import fit
from openset.model.rehearse import Rehearsal, compare, rehearse
from openset.networks import cnn


def images(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    image = torch.rand(n, 1, 8, 8, generator=generator) * 0.5
    for c, (i, j) in enumerate([(0, 0), (0, 4), (4, 0)]):
        image[labels == c, :, i : i + 4, j : j + 4] += 0.5
    return torch.utils.data.TensorDataset(image, labels)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    network = cnn(3, 1, widths=(4, 8), hidden=8)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    image, label = images().tensors
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    detectors = {"energy": Energy(), "msp": MaxSoftmax(), "temperature": Temperature()}
    return fit(network.eval(), detectors, images(), images(120, 1), accept=0.5)


def test_figures_are_those_of_the_scores_themselves(models):
    held_out = images(120, 1)
    found = rehearse(models, held_out, ["inverted"])
    image = held_out.tensors[0]
    # Every other image is known, the others are the stand-ins' origin.
    strange = ((1 - image[::2]) * 255).round() / 255
    for i, model in enumerate(models.values()):
        known, unknown = (model(x)[1].numpy() for x in (image[1::2], strange))
        truth = np.r_[np.zeros(60), np.ones(60)]
        assert found.auroc[i, 0] == pytest.approx(roc_auc_score(truth, np.r_[known, unknown]))
        p = [(1 + (known >= u).sum()) / 61 for u in unknown]
        assert found.p_value[i, 0] == pytest.approx(np.median(p))
    assert found.images == (60, 60)


def test_the_error_is_that_of_repeated_samples():
    random = np.random.default_rng(0)
    draws = [
        compare(random.standard_normal(80), 1 + random.standard_normal(50)) for _ in range(600)
    ]
    auroc, error, _ = np.array(draws).T
    assert error.mean() == pytest.approx(auroc.std(), rel=0.1)


def test_near_and_far_kinds_count_alike():
    kinds = ["noisy", "blurred", "turned"]
    auroc = np.array([[0.9, 0.8, 0.5], [0.7, 0.7, 0.9]])
    found = Rehearsal(["a", "b"], kinds, auroc, 0.01 + 0 * auroc, auroc, (10, 10))
    np.testing.assert_allclose(found.far, [0.85, 0.7])
    np.testing.assert_allclose(found.near, [0.5, 0.9])
    np.testing.assert_allclose(found.expected, [0.675, 0.8])
    assert found.best == "b"
    assert found.chances()[1] > 0.99
    assert found.recommendation().startswith("take b: expected AUROC 0.800, a 0.675; best in")


def test_chances_are_even_where_nothing_tells_detectors_apart():
    auroc = np.full((2, 3), 0.8)
    kinds = ["noisy", "blurred", "shuffled"]
    found = Rehearsal(["a", "b"], kinds, auroc, np.full((2, 3), 0.1), auroc, (10, 10))
    assert found.chances()[0] == pytest.approx(0.5, abs=0.06)


def test_the_table_has_a_line_for_each_detector_and_kind(models):
    lines = rehearse(models, images(120, 1), ["noisy", "turned"]).csv().splitlines()
    assert lines[0] == "detector,kind,group,auroc,deviation,p_value"
    assert [line.split(",")[:3] for line in lines[1:3]] == [
        ["energy", "noisy", "far"],
        ["energy", "turned", "near"],
    ]
    assert len(lines) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_images_and_gives_the_same_again(kind):
    color = torch.rand(6, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    stand_ins = StandIns([(color, torch.arange(6))], kind, seed=4)
    ((image, label),), ((again, _),) = list(stand_ins), list(stand_ins)
    assert image.shape == color.shape
    assert torch.equal(image, again)
    assert (label == -1).all()
    assert 0 <= image.min() <= image.max() <= 1
    assert (image - color).abs().flatten(1).mean(1).min() > 0.02
    assert torch.equal((image * 255).round() / 255, image)


def test_kinds_are_near_or_far():
    assert KINDS == FAR | NEAR
    assert not FAR.keys() & NEAR.keys()


def generator():
    return torch.Generator().manual_seed(1)


def smooth():
    """Images whose values stay well inside 0…1, so that nothing is cut off."""
    wave = torch.linspace(0, 6, 16).sin() * 0.1 + 0.5
    return torch.stack([wave.outer(wave) + 0.1, wave.outer(wave.flip(0)) + 0.2])[:, None]


def test_random_phase_keeps_the_amplitudes_and_the_mean():
    changed = KINDS["random-phase"](smooth(), generator())
    torch.testing.assert_close(
        torch.fft.rfft2(changed).abs()[..., 1:-1],
        torch.fft.rfft2(smooth()).abs()[..., 1:-1],
        atol=1e-3,
        rtol=1e-3,
    )
    torch.testing.assert_close(changed.mean((1, 2, 3)), smooth().mean((1, 2, 3)))


def test_other_amplitude_keeps_the_phases():
    changed = torch.fft.rfft2(KINDS["other-amplitude"](smooth(), generator()))
    own = torch.fft.rfft2(smooth())
    torch.testing.assert_close(changed.abs(), own.abs().flip(0), atol=1e-3, rtol=1e-3)
    strong = (own.abs() > 1) & (changed.abs() > 1)
    gap = (changed.angle() - own.angle())[strong]
    assert strong.sum() > 4
    assert gap.cos().min() > 0.999


def test_shuffled_moves_the_sixteen_patches_about():
    marked = torch.arange(16.0).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1) / 16
    changed = KINDS["shuffled"](marked[None, None], generator())
    patches = changed.unfold(2, 4, 4).unfold(3, 4, 4).reshape(16, 16)
    assert (patches == patches[:, :1]).all()
    assert sorted(patches[:, 0].tolist()) == sorted(marked[::4, ::4].flatten().tolist())
    assert not torch.equal(changed[0, 0], marked)


def test_blurred_is_the_mean_over_five_of_thirty_two_pixels():
    point = torch.zeros(1, 1, 32, 32)
    point[0, 0, 10, 20] = 1
    changed = KINDS["blurred"](point, generator())
    torch.testing.assert_close(changed[0, 0, 8:13, 18:23], torch.full((5, 5), 1 / 25))
    assert changed.sum() == pytest.approx(1)


def test_too_few_images_and_unknown_kinds_are_refused(models):
    with pytest.raises(ValueError, match="at least 20 held-out known images"):
        rehearse(models, images(12, 1))
    with pytest.raises(ValueError, match="unknown kind of stand-in 'blured': did you mean blurred"):
        rehearse(models, images(120, 1), ["blured"])


def test_pixels_are_refused(models):
    labelled = [(torch.rand(2, 1, 8, 8), torch.zeros(2, 8, 8).long())]
    assert len(list(batches(labelled))) == 1
    with pytest.raises(ValueError, match="judges whole images"):
        rehearse(models, labelled)
