"""Two processes fit, learn and measure what one does: every detector, density and objective."""

import pytest
import torch
from attack.material import names
from several import fits, in_each, learn, pixels
from test_pixels import write_scenes

from openset.densities import DENSITIES
from openset.objectives import OBJECTIVES

SMALL = {"flow": "flow,epochs=1,transforms=1,hidden=4", "pca": "pca,components=2"}
FITTED = [*names(), *(f"gemos:density={SMALL.get(name, name)}" for name in DENSITIES)]
LEARNT = sorted(OBJECTIVES)


@pytest.fixture(scope="module")
def fitted():
    """The models of one process, and those of each of two."""
    return fits(FITTED), in_each(fits, FITTED)


@pytest.mark.parametrize("name", FITTED)
def test_two_processes_fit_what_one_fits(name, fitted):
    alone, both = fitted
    label, score, threshold, held_out = alone[name]["first"]
    for found in both:
        for its_label, its_score, its_threshold, its_held_out in found[name].values():
            torch.testing.assert_close(its_score, score, rtol=1e-6, atol=1e-6)
            assert its_label.equal(label)
            assert its_threshold == threshold
            torch.testing.assert_close(its_held_out, held_out, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def learnt():
    return in_each(learn, LEARNT)


@pytest.mark.parametrize("name", LEARNT)
def test_two_processes_learn_the_same(name, learnt):
    first, second = (found[name] for found in learnt)
    for key, value in first.items():
        assert value.isfinite().all() or not value.is_floating_point(), key
        assert value.equal(second[key]), key


def test_two_processes_learn_what_one_learns(learnt):
    """To the rounding of sums, where nothing is random but the order of the images."""
    alone = learn(["cross-entropy"])["cross-entropy"]
    torch.testing.assert_close(learnt[0]["cross-entropy"], alone, rtol=1e-3, atol=1e-4)


def test_two_processes_sample_and_measure_the_pixels_of_one(tmp_path):
    write_scenes(tmp_path / "scenes")
    alone = pixels(str(tmp_path / "scenes"))
    assert len(alone[0]) == 120
    for logits, labels, figures in in_each(pixels, str(tmp_path / "scenes")):
        assert logits.equal(alone[0])
        assert labels.equal(alone[1])
        assert figures == alone[2]
