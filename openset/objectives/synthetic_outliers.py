"""The base of training with made-up outliers: one loss, whatever draws the outliers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.activations import UNKNOWN, VOID
from openset.networks.watch import evaluating
from openset.objectives.base import Objective
from openset.objectives.patches import SIDES, Patches, sides

WHOLE, PASTED = 1.0, 1e-3
"""Weights λ of the outliers for labelled images and for labelled pixels (Grcić et al. 2021)."""


SHOWN = 8
"""Number of outliers kept for the report each time."""


class SyntheticOutliers(Objective):
    """Trains to classify images, and to hold all classes equally probable on drawn outliers.

    The classifier's loss is CE + weight · KL(U ‖ p), with U uniform over the classes. Where pixels
    are labelled, one outlier is pasted into each image: a square whose side is drawn anew for each
    batch; CE is then that of the other pixels, KL that of the pasted ones, and both are divided by
    the number of pixels (equation 4 of Grcić et al. 2021).

    A subclass writes `draw`, and `step` with the losses of whatever draws. A few outliers are kept
    before epochs 1, 2, 4, 8, … and at the end, all from the same random seed, in the buffer
    `history` `[times, 8, C, H, W]` (uint8), so that a report can show how they change.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]` or `[N, K, H, W]`.
        weight: λ, the weight of the outliers' term; None for 1, and 1e-3 where pixels are labelled.
        count: Outliers per batch of whole images; None draws one for each image.
        sides: Smallest and largest side of a pasted outlier, as shares of the image's shorter side.
    """

    stride: int = 8
    """Pixels of which the side of a pasted outlier is a multiple."""

    image_shape: Tensor
    history: Tensor

    def __init__(
        self,
        network: nn.Module,
        weight: float | None = None,
        count: int | None = None,
        sides: Sequence[float] = SIDES,
    ):
        super().__init__(network)
        self.weight, self.count, self.sides = weight, count, sides

    def strength(self, place: Patches | None) -> float:
        """The weight λ, or that of the paper for whole images or for pasted outliers."""
        if self.weight is not None:
            return self.weight
        return WHOLE if place is None else PASTED

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator | None) -> Tensor:
        """`n` outliers `[n, C, H, W]` in 0…1, in evaluation mode and without gradients."""
        raise NotImplementedError

    def samples(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Outliers `[n, C, H, W]` of the training images' size, or as large as they are pasted.

        Raises:
            ValueError: Before the first training step, when that size is not known.
        """
        if "image_shape" not in self._buffers:
            raise ValueError("no training step yet, so no image size; train first, or call draw")
        _, height, width = self.image_shape.tolist()
        with torch.no_grad():
            return self.draw(n, (height, width), generator)

    def place(self, image: Tensor, label: Tensor) -> Patches | None:
        """Draws the square for the outlier in each image; None where whole images are labelled."""
        if label.dim() == 1:
            return None
        return Patches.draw(image, self.stride, label, self.sides)

    def classify(
        self, image: Tensor, label: Tensor, outliers: Tensor, place: Patches | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the images, and KL(U ‖ p) of the outliers.

        Both go through the network as one batch: with batch norm, two passes would let it tell
        them apart by their statistics, which a test image does not have.
        """
        self._note_shape(image, place)
        if place is not None:
            logits = self.logits(place.paste(image, outliers))
            return pasted_losses(logits, place.mark(label))
        logits = self.logits(torch.cat([image, outliers.to(image.dtype)]))
        known, unknown = logits[: len(image)], logits[len(image) :]
        return F.cross_entropy(known.float(), label), uniform_divergence(unknown).mean()

    def _note_shape(self, image: Tensor, place: Patches | None) -> None:
        if "image_shape" not in self._buffers:
            channels, *size = image.shape[1:]
            if place is not None:
                size = [sides((size[0], size[1]), self.stride, self.sides)[-1]] * 2
            self.keep(image_shape=torch.tensor([channels, *size], device=image.device))

    def start_epoch(self, epoch: int) -> None:
        power_of_two = epoch & (epoch - 1) == 0
        if epoch and power_of_two:
            self._remember()

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
        self._remember()
        return self.network

    def pictures(self) -> dict[str, Tensor]:
        """The outliers kept: one row for each time, after 1, 2, 4, 8, … epochs and at the end."""
        if "history" not in self._buffers:
            return {}
        rows = [torch.cat([*row], dim=2) for row in self.history]
        kept = [str(2**i) for i in range(len(rows) - 1)]
        when = f"after {', '.join(kept)} epochs and at the end" if kept else "at the end"
        return {f"outliers {when}": torch.cat(rows, dim=1).cpu()}

    def _remember(self) -> None:
        if "image_shape" in self._buffers:
            drawn = self.samples(SHOWN, torch.Generator().manual_seed(0)).cpu()
            grid = (255 * drawn).round().to(torch.uint8)[None]
            before = [self.history.cpu()] if "history" in self._buffers else []
            self.keep(history=torch.cat([*before, grid]))


def outlier_shape(
    count: int | None, image: Tensor, place: Patches | None
) -> tuple[int, tuple[int, int]]:
    """The number of outliers that a batch needs, and their height and width."""
    if place is not None:
        return len(image), (place.side, place.side)
    height, width = image.shape[-2:]
    return count or len(image), (height, width)


def uniform_divergence(logits: Tensor) -> Tensor:
    """KL(U ‖ p) = −mean over classes of log p − log K, in nats: `[N, K, *grid]` → `[N, *grid]`.

    It is 0 where all classes are equally probable, and grows without bound as one takes over.
    """
    return -logits.float().log_softmax(1).mean(1) - math.log(logits.shape[1])


def pasted_losses(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of equation 4, each over the number of pixels that are not void.

    Args:
        logits: `[N, K, H, W]`.
        label: `[N, H, W]`; `UNKNOWN` where an outlier was pasted.

    Returns:
        Cross-entropy of the other pixels, and KL(U ‖ p) of the pasted ones.
    """
    logits = logits.float()
    pixels = (label != VOID).sum().clamp(min=1)
    known = label.masked_fill(label == UNKNOWN, VOID)
    cross_entropy = F.cross_entropy(logits, known, ignore_index=VOID, reduction="sum")
    divergence = (uniform_divergence(logits) * (label == UNKNOWN)).sum()
    return cross_entropy / pixels, divergence / pixels


@contextmanager
def frozen(*modules: nn.Module, as_is: bool = False) -> Iterator[None]:
    """Lets gradients pass through modules without reaching their parameters.

    They are in evaluation mode, or with `as_is` in the mode they have. It stays open over the
    backward pass, for networks that compute activations again there.
    """
    learning = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with nullcontext() if as_is else evaluating(nn.ModuleList(modules)):
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def image_channels(network: nn.Module) -> int:
    """The channels of the images that a network takes, read from its first layer."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    mean = getattr(getattr(network, "normalize", None), "mean", None)
    if isinstance(mean, Tensor):
        return len(mean)
    raise ValueError(
        f"cannot tell how many channels {type(network).__name__} takes: it has no convolution "
        "and no `normalize`; give the flow, or the generator and discriminator, yourself"
    )
