"""Stand-ins for unknown images, made from known ones: for a rehearsal without any unknown image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import UNKNOWN
from openset.errors import unknown_name

Change = Callable[[Tensor, torch.Generator], Tensor]
"""From images `[N, C, H, W]` in 0…1 to images of the same shape that are of no known class."""

PATCHES = 4
"""Patches along each side that `shuffled` moves about."""

BLUR = 5 / 32
"""Side of the window of `blurred`, as a share of the image's."""


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of deviation 0.1 on every value."""
    return images + 0.1 * torch.randn(images.shape, generator=generator)


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """The mean over a window, 5 × 5 of 32 × 32 pixels; edges are repeated beyond the image."""
    reach = [max(1, round(side * BLUR / 2 - 0.5)) for side in images.shape[-2:]]
    padded = F.pad(images, [reach[1]] * 2 + [reach[0]] * 2, mode="replicate")
    return F.avg_pool2d(padded, [2 * r + 1 for r in reach], stride=1)


def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """The image's 4 × 4 patches in another order."""
    high, wide = (max(1, side // PATCHES) for side in images.shape[-2:])
    inner = images[..., : high * PATCHES, : wide * PATCHES]
    patches = F.unfold(inner, (high, wide), stride=(high, wide))
    order = torch.rand(len(images), patches.shape[2], generator=generator).argsort(1)
    moved = patches.gather(2, order[:, None].expand_as(patches))
    changed = images.clone()
    changed[..., : high * PATCHES, : wide * PATCHES] = F.fold(
        moved, inner.shape[-2:], (high, wide), stride=(high, wide)
    )
    return changed


def inverted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Light for dark."""
    return 1 - images


def random_phase(images: Tensor, generator: torch.Generator) -> Tensor:
    """The image's spectrum with random phases, alike in all channels: its texture and colours."""
    noise = torch.randn(len(images), 1, *images.shape[-2:], generator=generator)
    turn = torch.fft.rfft2(noise)
    turn = turn / turn.abs().clamp_min(1e-12)
    turn[..., 0, 0] = 1  # The mean stays.
    return torch.fft.irfft2(torch.fft.rfft2(images) * turn, s=images.shape[-2:])


def other_amplitude(images: Tensor, generator: torch.Generator) -> Tensor:
    """The image's phases with the amplitudes of another image of the batch."""
    spectrum = torch.fft.rfft2(images)
    amplitude = spectrum.abs()
    step = int(torch.randint(1, max(2, len(images)), (1,), generator=generator))
    direction = spectrum / amplitude.clamp_min(1e-12)
    return torch.fft.irfft2(amplitude.roll(step, 0) * direction, s=images.shape[-2:])


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turned by a right angle; where height and width differ, mirrored along the diagonal too."""
    side = images.rot90(1, (2, 3))
    return side if side.shape == images.shape else F.interpolate(side, images.shape[-2:])


FAR: dict[str, Change] = {
    "noisy": noisy,
    "blurred": blurred,
    "shuffled": shuffled,
    "inverted": inverted,
    "random-phase": random_phase,
    "other-amplitude": other_amplitude,
}
"""Kinds that look like no known image."""


NEAR: dict[str, Change] = {"turned": turned}
"""Kinds that look much like known images."""


KINDS = FAR | NEAR


class StandIns:
    """Batches of stand-ins of one kind, with the label `UNKNOWN`; read again, they are the same.

    Args:
        images: Batches of known images in 0…1 and labels, which may be read several times.
        kind: A name in `KINDS`.
        seed: Seed of what is drawn.

    Example:
        >>> black = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
        >>> ((image, label),) = StandIns([black], "inverted")
        >>> image.mean().item(), label.tolist()
        (1.0, [-1, -1])
    """

    def __init__(self, images: Iterable[tuple[Tensor, Tensor]], kind: str, seed: int = 0):
        if kind not in KINDS:
            raise ValueError(unknown_name("kind of stand-in", kind, KINDS))
        self.images, self.change, self.seed = images, KINDS[kind], seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for image, label in self.images:
            changed = self.change(image.float().cpu(), generator).clamp(0, 1)
            # In steps of 1/255, as files hold, lest finer ones tell a stand-in.
            yield (changed * 255).round() / 255, torch.full_like(label, UNKNOWN)
