"""False alarms among many images: Benjamini–Hochberg by a loop."""

import numpy as np
import pytest
import torch

from openset.scoring.false_discoveries import check_level, cut_at, promise, q_values


def by_steps(p_values, level):
    """Benjamini & Hochberg, step up: the most k with p₍ₖ₎ ≤ k·α/m."""
    ordered = sorted(p_values)
    most = max((k for k, p in enumerate(ordered, 1) if p <= k * level / len(ordered)), default=0)
    return [p <= ordered[most - 1] if most else False for p in p_values]


@pytest.mark.parametrize("level", [0.05, 0.1, 0.4])
def test_marks_what_the_steps_mark(level):
    for seed in range(20):
        draw = np.random.default_rng(seed)
        p = torch.from_numpy(draw.random(60) ** draw.integers(1, 4))
        q = q_values(p)
        assert (q <= level).tolist() == by_steps(p.tolist(), level)
        known = (1 + int((p > 0.5).sum())) / 30
        assert (q_values(p, storey=True) <= level).tolist() == by_steps(p.tolist(), level / known)
        cut = cut_at(p, q, level)
        assert ((p <= cut) == (q <= level)).all()


def test_nothing_is_marked_among_none_and_a_level_is_a_share():
    assert len(q_values(torch.empty(0))) == 0
    assert cut_at(torch.tensor([0.5]), torch.tensor([0.5]), 0.1) == 0
    with pytest.raises(ValueError, match=r"fdr must lie between 0 and 1; got 1\.5"):
        check_level(1.5)


def test_says_how_many_must_be_strange_where_held_out_images_are_few():
    said = promise(0.1, 0, 1000, [99], None)
    assert said[0] == "0 of 1000 images are called unknown."
    assert "at least 100 must be stranger than all" in said[2]
    assert len(promise(0.1, 0, 10, [999], None)) == 2
    assert promise(0.1, 3, 10, [99], "they were trained on")[1:] == [
        "No guarantee holds: they were trained on."
    ]
