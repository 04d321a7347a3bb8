"""The labels of a set's splits, in one vocabulary: a class has one number wherever it occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openset.data.classes import natural

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Labels:
    """The labels of one split.

    Args:
        codes: Indices into `names`, int64 `[N]`; None where the split hides its labels.
        names: The classes of the split.
        declared: Whether `names` is a list that the set declares, whose order counts.
    """

    codes: Tensor | None
    names: list[str]
    declared: bool = False


def read_labels(dataset: Dataset, column: str, name: str) -> Labels:
    """The labels in a column of a table, whose type `ClassLabel` declares the classes or not.

    Raises:
        ValueError: For labels outside the classes, and for what names no class.
    """
    values = dataset.with_format("arrow")[:][column].to_pylist() if len(dataset) else []
    names = getattr(dataset.features[column], "names", None)
    called = f"{name}: column {column!r}"
    return labels_of(values, called) if names is None else declared_labels(values, names, called)


def declared_labels(values: Sequence[int | None], names: Sequence[str], called: str) -> Labels:
    """Labels that are indices into declared names; None and −1 hide a label."""
    codes = torch.tensor([-1 if value is None else value for value in values], dtype=torch.long)
    if len(codes) and bool((codes == -1).all()):
        return Labels(None, list(names), declared=True)
    bad = codes[(codes < 0) | (codes >= len(names))]
    if len(bad):
        raise ValueError(
            f"{called}: {len(bad)} labels are outside 0…{len(names) - 1} (such as {int(bad[0])}); "
            f"give each image one of the {len(names)} classes"
        )
    return Labels(codes, list(names), declared=True)


def labels_of(values: Sequence[Any], called: str) -> Labels:
    """Labels that are names or whole numbers, each its own class; the numbers keep their values.

    Raises:
        ValueError: For labels that are fractions or lists, and where some are missing but not all.
    """
    found = [_name(value, called) for value in values]
    missing = found.count(None)
    if missing and missing == len(found):
        return Labels(None, [])
    if missing:
        raise ValueError(
            f"{called}: {missing} of {len(found)} images have no label, the first is number "
            f"{found.index(None)}; label them all or leave them out"
        )
    names = sorted({name for name in found if name is not None}, key=natural)
    place = {name: c for c, name in enumerate(names)}
    return Labels(torch.tensor([place[str(name)] for name in found], dtype=torch.long), names)


def _name(value: Any, called: str) -> str | None:
    """The class name that a label stands for; None for a label that is missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # A column of integers in which some are missing.
    if value is None or value == "" or value == -1 or value != value:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if not isinstance(value, str | int):
        raise ValueError(
            f"{called} holds {value!r}, which names no class; give each image one class, by its "
            "name or a whole number"
        )
    return str(value).strip()


def share_classes(splits: Mapping[str, Labels]) -> tuple[dict[str, Tensor | None], list[str]]:
    """The labels of all splits in one vocabulary, by the names of the classes.

    Where splits declare their classes, the first one's order comes first; else names are sorted,
    the numbers in them by value.

    Returns:
        The labels `[N]` of each split, None where they are hidden, and the names of all classes.

    Example:
        >>> train = Labels(torch.tensor([0, 1]), ["cat", "dog"])
        >>> test = Labels(torch.tensor([0, 1]), ["bird", "cat"])
        >>> labels, names = share_classes({"train": train, "test": test})
        >>> names, labels["train"].tolist(), labels["test"].tolist()
        (['bird', 'cat', 'dog'], [1, 2], [0, 1])
    """
    declared = [name for split in splits.values() if split.declared for name in split.names]
    others = {name for split in splits.values() if not split.declared for name in split.names}
    names = list(dict.fromkeys([*declared, *sorted(others, key=natural)]))
    place = {name: c for c, name in enumerate(names)}
    labels = {
        key: None
        if split.codes is None
        else torch.tensor([place[name] for name in split.names], dtype=torch.long)[split.codes]
        for key, split in splits.items()
    }
    return labels, names
