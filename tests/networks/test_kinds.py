"""Every kind of network that people have is taken through the whole job."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.networks.kinds import KINDS, markdown, seen

QUICK = ("your own module", "TorchScript")
"""Kinds that differ most; an export of each of the others takes the time of many tests."""

EVERY = [
    pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow, id=kind) for kind in KINDS
]


@pytest.mark.parametrize("kind", EVERY)
def test_every_kind_of_network_does_what_the_page_says(kind, tmp_path):
    its = KINDS[kind]
    if its.needs and find_spec(its.needs) is None:
        pytest.skip(f"{its.needs} is not installed")
    assert seen(its.make, tmp_path) == its.told


def test_the_page_lists_every_kind():
    page = Path(__file__).parents[2] / "docs" / "how-to" / "own-network.md"
    assert markdown() in page.read_text(), (
        "put tests.networks.kinds.markdown() into docs/how-to/own-network.md"
    )
