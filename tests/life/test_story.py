"""The story of the page on a model's life: two digits are noticed, grouped, named and known."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "life.md"


def told(source):
    """What the story's variables hold at its end, with another data set."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    code = "\n".join(blocks).replace('source = "digits"', f"source = {source!r}")
    space: dict = {"__name__": "story"}
    exec(compile(code, str(PAGE), "exec"), space)
    return space


@pytest.mark.parametrize(
    "source", ["digits", pytest.param("ylecun/mnist,limit=6000", marks=pytest.mark.slow)]
)
def test_two_digits_are_noticed_grouped_named_and_known(source):
    space = told(source)
    (known, new), (known_after, new_after) = space["before"], space["after"]
    assert known > 0.9
    assert new == 0
    assert known_after > known - 0.03
    assert new_after > 0.7
    assert set(space["grown"].classes) == {*"0123456789"}
    state = space["monitor"].state
    assert state.first is not None
    assert state.first > len(space["data"].test)
    assert space["model"].classes == [*"01234567"]
    assert space["model"].threshold != space["grown"].threshold
