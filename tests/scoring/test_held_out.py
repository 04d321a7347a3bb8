"""p-values and other thresholds from the scores that a model keeps, against those of all scores."""

import pytest
import torch

from openset.scoring.held_out import KNOTS, HeldOut, PValues
from openset.scoring.scored import Scored
from openset.scoring.threshold import Threshold, known_groups

PERCENTS = [c / 100 for c in range(1, 100, 7)]


def scored(n, classes=3):
    score = torch.randn(n, generator=torch.Generator().manual_seed(n)).exp()
    label = torch.arange(n) % classes
    return Scored(score, label, label)


def p_values(scores, asked):
    """The definition."""
    return (1 + (scores[None] >= asked[:, None]).sum(1)).double() / (1 + len(scores))


@pytest.mark.parametrize("classes", [None, 3])
def test_few_scores_give_what_all_of_them_do(classes):
    seen = scored(999)
    held_out = HeldOut().fit(known_groups(seen, classes))
    for accept in (0.123, 0.5, 0.9, 0.95, 0.987):
        assert held_out.threshold(accept) == Threshold.of(seen, accept, classes)
        assert held_out.exact(accept)
    asked = torch.cat([seen.score[:50], torch.tensor([-1.0, 1e6])])
    for c in range(3):
        own = seen.score if classes is None else seen.score[seen.predicted == c]
        found = held_out.p_values(asked, torch.full((52,), c))
        assert torch.allclose(found, p_values(own, asked))


def test_of_many_scores_percents_and_the_tail_are_exact_and_the_rest_is_safe():
    seen = scored(20_000)
    held_out = HeldOut().fit(known_groups(seen))
    assert len(held_out.knots) <= KNOTS
    for accept in [*PERCENTS, 0.9995, 0.9999]:
        assert held_out.exact(accept), accept
        assert held_out.threshold(accept).values == Threshold.of(seen, accept).values
    between = torch.linspace(0.101, 0.997, 20).tolist()
    assert not all(held_out.exact(accept) for accept in between)
    for accept in between:
        found, wanted = held_out.threshold(accept), Threshold.of(seen, accept)
        assert found.values >= wanted.values
        below = int((seen.score <= found.values[0]).sum())
        assert below <= found.accepted[0] <= below + 0.02 * len(seen)
    asked = scored(100).score
    found, wanted = held_out.p_values(asked, torch.zeros(100).long()), p_values(seen.score, asked)
    assert (found >= wanted - 1e-9).all()
    assert (found / wanted).max() < 1.03
    tail = seen.score.topk(50).values
    rare = held_out.p_values(tail, torch.zeros(50).long())
    assert torch.allclose(rare, p_values(seen.score, tail))


@pytest.mark.parametrize(("n", "classes"), [(999, None), (20_000, None), (3000, 3)])
def test_a_graph_and_a_threshold_say_the_same_as_the_p_values(n, classes):
    seen = scored(n)
    held_out = HeldOut().fit(known_groups(seen, classes))
    asked = torch.cat([scored(500).score, seen.score[:300], torch.tensor([-1.0, 1e6])])
    group = torch.arange(len(asked)) % 3
    found = held_out.p_values(asked, group)
    torch.testing.assert_close(PValues(held_out)(asked, group), found.float())
    applying = group if classes else torch.zeros_like(group)
    for p in [*found.unique()[:9].tolist(), 0.05, 0.3]:
        assert torch.equal(asked.double() > held_out.values_at(p)[applying], found <= p)
    assert held_out.values_at(1e-9).isinf().all()


def test_equal_scores_count_together():
    scores = torch.tensor([0.0] * 50 + [1.0] * 49).sort().values
    held_out = HeldOut().fit([scores])
    assert held_out.p_values(torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3).long()).tolist() == [
        *(1.0, 0.5, 0.5)
    ]
    assert held_out.accepted(0.5) == pytest.approx(50 / 99)


def test_known_samples_are_as_rare_as_they_say():
    held_out = HeldOut().fit(known_groups(scored(2000)))
    rare = held_out.p_values(scored(20_001).score, torch.zeros(20_001).long())
    for share in (0.01, 0.05, 0.2):
        assert float((rare <= share).double().mean()) < share + 0.02


def test_too_high_a_share_is_refused_with_the_number_it_needs():
    with pytest.raises(ValueError, match="needs at least 999 held-out known samples; got 500"):
        HeldOut().fit([torch.arange(500.0)]).threshold(0.999)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sizes", torch.tensor([4])),
        ("sizes", torch.tensor([5.0])),
        ("knots", torch.arange(5.0).double().flip(0)),
        ("knots", torch.arange(5.0)),
        ("at_least", torch.tensor([2**60, 4, 3, 2, 1])),
        ("above", torch.tensor([4, 3, 2, 1])),
    ],
)
def test_a_forged_state_is_refused(name, value):
    state = HeldOut().fit([torch.arange(5.0)]).state_dict()
    HeldOut().load_state_dict(state)
    with pytest.raises(ValueError, match="do not fit each other"):
        HeldOut().load_state_dict({**state, name: value})
    with pytest.raises(ValueError, match="do not fit each other"):
        HeldOut().load_state_dict({"knots": state["knots"]})


def test_half_precision_leaves_the_scores_as_they_are():
    held_out = HeldOut().fit([torch.arange(5.0) + 0.12345])
    before = held_out.knots.clone()
    assert torch.equal(torch.nn.ModuleList([held_out]).half()[0].knots, before)
