"""Segmentation sets made from the user's own copies of what may not be passed on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from openset.data.builders.cityscapes import cityscapes
from openset.data.builders.fishyscapes import fishyscapes
from openset.data.builders.streethazards import streethazards
from openset.data.builders.vistas import vistas_np
from openset.data.builders.wd_pascal import wd_pascal
from openset.data.builders.writing import Splits, _write
from openset.files import complete_folder


def build_set(name: str, sources: list[str], out: str | Path) -> dict[str, int]:
    """Makes a segmentation set in the layout that `openset.data.load` reads.

    Args:
        name: One of `BUILDERS`.
        sources: Paths of the publishers' folders, in the order that the builder's docstring says.
        out: The new folder; its last part must be the set's name, by which its masks are read.

    Returns:
        The number of images in each split.

    Raises:
        ValueError: If a folder is not what the publisher's archive holds.
    """
    from openset.errors import unknown_name

    if name not in BUILDERS:
        raise ValueError(unknown_name("set to build", name, BUILDERS))
    if Path(out).name != name:
        raise ValueError(f"{out} must end in {name}, by which the meaning of its masks is known")
    builder, expected = BUILDERS[name]
    if len(sources) != expected:
        raise ValueError(f"{name} is made from {expected} folders, got {len(sources)}: {_of(name)}")
    for source in sources:
        if not Path(source).is_dir():
            raise ValueError(f"{source} is no folder; {_of(name)}")
    with complete_folder(out) as partial:
        (partial / "data").mkdir()
        splits = builder(*map(Path, sources))
        counts = {split: _write(partial / "data", split, pairs) for split, pairs in splits.items()}
        if not all(counts.values()):
            raise ValueError(f"no images for {counts} in {', '.join(sources)}; {_of(name)}")
    return counts


BUILDERS: dict[str, tuple[Callable[..., Splits], int]] = {
    "cityscapes": (cityscapes, 1),
    "fishyscapes-lost-and-found": (fishyscapes, 2),
    "streethazards": (streethazards, 1),
    "vistas-np": (vistas_np, 1),
    "wd-pascal": (wd_pascal, 2),
}
"""The builder of each set and its number of source folders, by name."""


def how_to_get(name: str) -> str:
    """Tells how to get and build a set that may not be passed on; empty for any other set."""
    if name not in BUILDERS:
        return ""
    folders = " ".join(f"FOLDER{i}" for i in range(1, BUILDERS[name][1] + 1))
    command = f"openset build-set {name} {folders} --out $OPENSET_DATA/{name}"
    return f"{_of(name)} Then run: {command}"


def _of(name: str) -> str:
    """The second paragraph of a builder's docstring: what it needs, and from where."""
    text = (BUILDERS[name][0].__doc__ or "").split("\n\n")[1]
    return " ".join(text.split())
