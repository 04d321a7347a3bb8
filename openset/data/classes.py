"""Chooses the known classes and their order, and holds out a share of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from openset.errors import unknown_name


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits positions so that about `share` of each class is held out.

    A class of two or more images gives at least one and keeps at least one. It depends on the
    labels and the seed alone.

    Returns:
        The positions kept and those held out, both ascending.

    Example:
        >>> kept, held = hold_out(torch.tensor([0, 0, 0, 0, 1, 1]), share=0.25, seed=0)
        >>> len(kept), len(held)
        (4, 2)
    """
    if not 0 <= share < 1:
        raise ValueError(f"the held-out share is {share}; give a number from 0 up to below 1")
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique().tolist() if share else ():
        members = (labels == c).nonzero().squeeze(1)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names with the numbers in them by value: 2 comes before 10.

    Example:
        >>> sorted(["10", "b2", "9", "b10"], key=natural)
        ['9', '10', 'b2', 'b10']
    """
    parts = [part for part in re.split(r"(\d+)", name) if part]
    keyed = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    return [*keyed, (-1, 0, name)]


def choose_classes(known: str | Iterable[int | str] | None, names: Sequence[str]) -> list[int]:
    """The known classes as indices, in the order given; all of them for None.

    Args:
        known: Indices or names, or one string such as `"0-5"`, `"0,1,4"` or `"cat,dog"`. A word
            is first looked up among the names, then read as an index, unless names are numbers
            themselves; a range of such names goes by their value. `"not cat,dog"` takes all but
            these.
        names: The names of all classes.

    Raises:
        ValueError: For a class that does not exist, with the nearest names, and for a choice that
            is empty, names a class twice, or leaves no class unknown.

    Example:
        >>> choose_classes("0-2,dog", ["ant", "bee", "cat", "cow", "dog"])
        [0, 1, 2, 4]
        >>> choose_classes("not cat,dog", ["ant", "bee", "cat", "cow", "dog"])
        [0, 1, 3]
        >>> choose_classes("8-10", ["1", "10", "8", "9"])
        [2, 3, 1]
    """
    if known is None:
        return list(range(len(names)))
    if isinstance(known, str) and known.startswith("not "):
        unknown = choose_classes(known.removeprefix("not "), names)
        return [c for c in range(len(names)) if c not in unknown]
    words = known.split(",") if isinstance(known, str) else list(known)
    chosen = [c for word in words for c in _indices(word, names)]
    if not chosen:
        raise ValueError(f"known_classes is {known!r}; name at least one of the {len(names)}")
    twice = {names[c] for c in chosen if chosen.count(c) > 1}
    if twice:
        raise ValueError(f"known_classes names {', '.join(sorted(twice))} twice; name each once")
    if len(chosen) == len(names):
        raise ValueError(
            f"known_classes names all {len(names)} classes, so none is left to be unknown; leave "
            "it out to train on all"
        )
    return chosen


def _indices(word: int | str, names: Sequence[str]) -> list[int]:
    text = str(word).strip()
    first, dash, last = text.partition("-")
    if isinstance(word, str) and dash and text not in names:
        found = _range(first.strip(), last.strip(), names)
        if found:
            return found
    index = _index(text, names) if isinstance(word, str) else _in_range(int(word), names)
    if index is None:
        hint = "" if _numbered(names) else f" Indices go from 0 to {len(names) - 1}"
        raise ValueError(f"{unknown_name('class', text, names)}{hint}")
    return [index]


def _range(first: str, last: str, names: Sequence[str]) -> list[int]:
    """The classes from one to another: by value where names are numbers, else by index."""
    start, end = _index(first, names), _index(last, names)
    if start is None or end is None:
        return []
    if first.isdecimal() and last.isdecimal() and _numbered(names):
        values = {int(name): c for c, name in enumerate(names) if name.isdecimal()}
        return [values[v] for v in sorted(values) if int(first) <= v <= int(last)]
    return list(range(start, end + 1))


def _numbered(names: Sequence[str]) -> bool:
    """Whether classes are called by numbers, which could be mistaken for indices."""
    return any(name.isdecimal() for name in names)


def _index(word: str, names: Sequence[str]) -> int | None:
    if word in names:
        return list(names).index(word)
    if _numbered(names) or not word.isdecimal():
        return None
    return _in_range(int(word), names)


def _in_range(index: int, names: Sequence[str]) -> int | None:
    return index if 0 <= index < len(names) else None
