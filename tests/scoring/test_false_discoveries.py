"""False alarms among many images: Benjamini–Hochberg by a loop, and the promise on real scores."""

import numpy as np
import pytest
import torch

from openset.runs.run import Run
from openset.scoring.answers import answers
from openset.scoring.false_discoveries import check_level, cut_at, promise, q_values
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import joined

LEVEL, STREAMS = 0.2, 1000


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


@pytest.fixture(scope="module")
def scores(run):
    """The scores of known images that no training has seen, and of unknown ones."""
    loaded = Run.load(run)
    model, data = loaded.load_model("energy"), loaded.load_data()

    def seen(images):
        return joined([a.scored for a in answers(model.tap, {"": model.detector}, images)]).score

    return torch.cat([seen(data.valid), seen(data.test)]), seen(data.unknown)


def streams(known, unknown, *, storey):
    """False share, and found share, of streams of 60 known and 20 unknown images; and beside them
    those of the threshold that accepts 95 %."""
    found = []
    for seed in range(STREAMS):
        draw = torch.Generator().manual_seed(seed)
        mixed = known[torch.randperm(len(known), generator=draw)]
        held_out = HeldOut().fit([mixed[60:].sort().values])
        strange = unknown[torch.randperm(len(unknown), generator=draw)[:20]]
        stream = torch.cat([mixed[:60], strange])
        p = held_out.p_values(stream, torch.zeros(80).long())
        for marked in (q_values(p, storey=storey) <= LEVEL, p <= 0.05):
            false, right = int(marked[:60].sum()), int(marked[60:].sum())
            found += [false / max(1, false + right), right / 20]
    return torch.tensor(found).view(STREAMS, 4).T


@pytest.mark.parametrize("storey", [False, True])
def test_the_share_of_false_alarms_keeps_its_promise_on_real_scores(scores, storey):
    share, power, fixed, its_power = streams(*scores, storey=storey)
    error = 3 * share.std() / STREAMS**0.5
    promised = LEVEL if storey else LEVEL * 60 / 80
    assert share.mean() <= promised + error
    assert share.mean() > promised / 2, "so low that it could have marked more"
    assert power.mean() > 0.2
    assert fixed.mean() > 0
    assert its_power.mean() > 0.2
