"""False alarms over many images: which to call unknown so that few of those are known ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from openset.scoring.threshold import percent

HALF = 0.5
"""The p-value above which Storey's estimate takes all images for known ones."""


def q_values(p_values: Tensor, *, storey: bool = False) -> Tensor:
    """The lowest level of false discoveries at which each image is called unknown, `[M]`.

    Benjamini & Hochberg, 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x. Those at or
    below a level α are called unknown; of these, at most a share α are known images on average. It
    holds though all p-values rest on the same held-out images, because they depend on each other
    positively: Bates et al., 2023, "Testing for outliers with conformal p-values",
    https://arxiv.org/abs/2104.08279.

    Args:
        p_values: `[M]`, those of all images that are judged together.
        storey: Whether to estimate the share of known images, which finds more where many are
            unknown: (1 + the number with p > ½) / (M / 2), Storey, 2002,
            https://doi.org/10.1111/1467-9868.00346.

    Example:
        >>> q_values(torch.tensor([0.01, 0.02, 0.9, 0.8], dtype=torch.float64)).tolist()
        [0.04, 0.04, 0.9, 0.9]
    """
    from scipy.stats import false_discovery_control  # Slow to import.

    if not len(p_values):
        return p_values.double()
    found = torch.from_numpy(false_discovery_control(p_values.double().numpy()))
    if not storey:
        return found
    known = (1 + int((p_values > HALF).sum())) / (HALF * len(p_values))
    return (found * known).clamp_max(1)


def cut_at(p_values: Tensor, q: Tensor, level: float) -> float:
    """The largest p-value that is called unknown at a level; 0 if none is."""
    marked = p_values[q <= level]
    return float(marked.max()) if len(marked) else 0.0


def check_level(level: float) -> float:
    """Returns the level of false discoveries; raises unless it lies between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"fdr must lie between 0 and 1; got {level!r}; give such as 0.1")
    return level


def promise(
    level: float, marked: int, total: int, counts: Sequence[int], doubt: str | None
) -> list[str]:
    """States what calling `marked` of `total` images unknown at a level promises, in lines.

    Args:
        level: The share of false alarms among all alarms.
        marked: Images called unknown.
        total: Images judged.
        counts: Held-out known images of each group.
        doubt: Why nothing is promised, if something speaks against it.
    """
    said = [f"{marked} of {total} images are called unknown."]
    share, n = percent(level), sum(counts)
    if doubt is not None:
        said.append(f"No guarantee holds: {doubt}.")
    else:
        said.append(
            f"On average at most {share} of the images so called are known ones, if the known "
            f"images among them are drawn as the {n} held-out ones were, each by itself; in one "
            "run the share may be higher."
        )
    least = ceil(total / (level * (min(counts) + 1)) - 1e-9)
    if least > 1 and not marked:
        said.append(
            f"Among {total} images at least {least} must be stranger than all held-out ones before "
            "any is called unknown; hold out more known images, or judge fewer at once."
        )
    return said
