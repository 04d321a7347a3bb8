"""Which classes are known, and a share of each held out."""

from __future__ import annotations

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


def choose_classes(known: str | Iterable[int | str] | None, names: Sequence[str]) -> list[int]:
    """The known classes as indices, in the order given; all of them for None.

    Args:
        known: Indices or names, or one string such as `"0-5"`, `"0,1,4"` or `"cat,dog"`. A word
            is first looked up among the names, then read as an index. `"not cat,dog"` takes all
            but these.
        names: The names of all classes.

    Raises:
        ValueError: For a class that does not exist, with the nearest names, and for a choice that
            is empty, names a class twice, or leaves no class unknown.

    Example:
        >>> choose_classes("0-2,dog", ["ant", "bee", "cat", "cow", "dog"])
        [0, 1, 2, 4]
        >>> choose_classes("not cat,dog", ["ant", "bee", "cat", "cow", "dog"])
        [0, 1, 3]
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
        start, end = _index(first, names), _index(last, names)
        if start is not None and end is not None and start <= end:
            return list(range(start, end + 1))
    index = _index(text, names) if isinstance(word, str) else _in_range(int(word), names)
    if index is None:
        raise ValueError(
            f"{unknown_name('class', text, names)} Indices go from 0 to {len(names) - 1}"
        )
    return [index]


def _index(word: str, names: Sequence[str]) -> int | None:
    word = word.strip()
    if word in names:
        return list(names).index(word)
    return _in_range(int(word), names) if word.isdecimal() else None


def _in_range(index: int, names: Sequence[str]) -> int | None:
    return index if 0 <= index < len(names) else None
