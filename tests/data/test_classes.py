import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openset.data.classes import choose_classes, hold_out

ANIMALS = ["ant", "bee", "cat", "dog", "aero-plane"]
DIGITS = [str(c) for c in range(10)]


@pytest.mark.parametrize(
    ("known", "names", "expected"),
    [
        (None, DIGITS, list(range(10))),
        (range(6), DIGITS, [0, 1, 2, 3, 4, 5]),
        ("0-5", DIGITS, [0, 1, 2, 3, 4, 5]),
        ("4,0,1", DIGITS, [4, 0, 1]),
        ("7 , 2-3", DIGITS, [7, 2, 3]),
        ("dog,cat", ANIMALS, [3, 2]),
        (["dog", 0], ANIMALS, [3, 0]),
        ("aero-plane", ANIMALS, [4]),
        ("ant-cat", ANIMALS, [0, 1, 2]),
        ("2-3", ["1", "2", "3", "4"], [1, 2]),  # names come before indices
        ([2, 3], ["1", "2", "3", "4"], [2, 3]),
    ],
)
def test_choices(known, names, expected):
    assert choose_classes(known, names) == expected


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ("catt", "did you mean cat"),
        ("7", "Indices go from 0 to 4"),
        ([-1], "Indices go from 0 to 4"),
        ("3-1", "unknown class"),
        ([], "at least one"),
        ("", "unknown class"),
        ("cat,2", "names cat twice"),
        (range(5), "names all 5 classes"),
    ],
)
def test_impossible_choices_say_why(known, message):
    with pytest.raises(ValueError, match=message):
        choose_classes(known, ANIMALS)


@given(
    st.lists(st.integers(0, 4), max_size=60), st.floats(0, 0.9), st.integers(0, 2**31)
)  # fmt: skip
def test_hold_out_is_stratified_complete_and_repeatable(labels, share, seed):
    labels = torch.tensor(labels, dtype=torch.long)
    kept, held = hold_out(labels, share, seed)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    again = hold_out(labels, share, seed)
    assert torch.equal(held, again[1])
    for c in labels.unique():
        n, out = int((labels == c).sum()), int((labels[held] == c).sum())
        assert out < n
        assert abs(out - share * n) <= 1
        assert out >= 1 or n == 1 or share == 0


def test_hold_out_leaves_the_global_state_alone_and_depends_on_the_seed():
    labels = torch.zeros(50, dtype=torch.long)
    before = torch.get_rng_state()
    one, two = hold_out(labels, 0.5, 1)[1], hold_out(labels, 0.5, 2)[1]
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, two)
    with pytest.raises(ValueError, match="share is 1"):
        hold_out(labels, 1, 0)
