"""Several further looks at an image, through fixed parts of the network (MC dropout)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from openset.activations import Activations
from openset.extractors.base import Extractor
from openset.extractors.tap import Tap
from openset.networks.device import dtype_of
from openset.networks.outputs import logits_of
from openset.networks.watch import evaluating, listening, run
from openset.sampling import dropout_masks

AT_ONCE = 1024
"""Images that pass the network together at most, each counted as often as there are masks."""


class Dropouts(Extractor):
    """Adds the logits of sub-networks in which the network's own dropout leaves out channels.

    `features["members"]` holds them side by side, `[N, samples · K, *grid]`. Each dropout module of
    the network has masks of its own, drawn once from the seed and the same for every image; of a
    map whole channels are left out. The network itself is not changed.

    Args:
        tap: From an image to activations; they are passed on.
        samples: Number of sub-networks.
        seed: Seed of the masks.

    Raises:
        ValueError: If the network has no dropout module, or none with a share above 0.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
        >>> seen = Dropouts(Tap(network), samples=5)(torch.rand(2, 1, 2, 2))
        >>> seen.features["members"].shape
        torch.Size([2, 15])
    """

    looks_again = True

    def __init__(self, tap: Tap, samples: int = 40, seed: int = 0):
        super().__init__()
        self.tap, self.samples, self.seed = tap, samples, seed
        modules = [m for m in tap.network.modules() if isinstance(m, _DropoutNd) and m.p > 0]
        if not modules:
            raise ValueError(
                f"{type(tap.network).__name__} has no dropout module to leave on; build it with "
                "dropout (wrn-16-2:dropout=0.3), or drop out its last features alone: whole=false"
            )
        self.hooks = [(m, partial(self._masked, i, m.p)) for i, m in enumerate(modules)]

    @property
    def key(self) -> Hashable:
        return self.tap.key, "dropouts", self.samples, self.seed

    def forward(self, image: Tensor) -> Activations:
        seen = self.tap(image)
        pieces = image.to(dtype_of(self.tap.network)).split(max(1, AT_ONCE // self.samples))
        members = torch.cat([self._members(piece) for piece in pieces])
        return replace(seen, features={**seen.features, "members": members})

    def _members(self, image: Tensor) -> Tensor:
        """The logits `[N, samples · K, *grid]` of all sub-networks."""
        every = image.repeat(self.samples, *(1,) * (image.dim() - 1))
        with evaluating(self.tap.network), listening(self.hooks):
            logits = logits_of(run(self.tap.network, every))
        return logits.unflatten(0, (self.samples, -1)).transpose(0, 1).flatten(1, 2)

    def _masked(self, place: int, rate: float, _: object, x: Tensor) -> Tensor:
        """What a dropout module gives: each repetition of the batch through its own mask."""
        channels = x.dim() - 1 if x.dim() == 3 else 1  # Tokens `[N, T, D]` have theirs last.
        masks = dropout_masks(self.samples, x.shape[channels], rate, self.seed + 1000 * place)
        shape = [self.samples, 1, *(1,) * (x.dim() - 1)]
        shape[channels + 1] = x.shape[channels]
        return (x.unflatten(0, (self.samples, -1)) * masks.to(x).view(shape)).flatten(0, 1)
