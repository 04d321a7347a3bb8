"""`openset shares`."""

from __future__ import annotations

from rich.table import Table

from openset.commands.screen import show


def shares(
    data: str, *, known_classes: str | None = None, unknown_classes: str | None = None
) -> None:
    """Show how much of a segmentation set's label maps is known, unknown and void.

    Args:
        data: The set, such as `camvid` or `vistas-np:test`.
        known_classes: Classes to know, such as `Road,Car`; all by default.
        unknown_classes: Instead: classes to leave out, such as `Pedestrian,Bicyclist`.
    """
    from openset.data.shares import label_shares

    if known_classes and unknown_classes:
        raise ValueError("give --known-classes or --unknown-classes, not both")
    left_out = None if unknown_classes is None else f"not {unknown_classes}"
    table = Table("split", "images", "known", "unknown", "void", title=data)
    for split, found in label_shares(data, known_classes or left_out).items():
        images, *kinds = found
        table.add_row(split, f"{images:,}", *(f"{share:.1%}" for share in kinds))
    show(table)
