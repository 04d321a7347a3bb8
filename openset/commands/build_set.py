"""`openset build-set`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Places
from openset.commands.screen import say


def build_set(name: str, sources: Places, *, out: Path) -> None:
    """Build a segmentation data set that may not be passed on, from the publishers' archives.

    Args:
        name: `cityscapes`, `fishyscapes-lost-and-found`, `streethazards`, `vistas-np`, `wd-pascal`.
        sources: Folders of the unpacked archives, which you have downloaded.
        out: The new folder, such as `$OPENSET_DATA/cityscapes`.
    """
    from openset.data.builders.build import build_set as build

    counts = build(name, sources, out)
    say(f"{', '.join(f'{split} {count:,}' for split, count in counts.items())} images: {out}")
