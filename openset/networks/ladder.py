"""Ladder networks: an encoder, context from its top, and a light way back up to the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as run_again

from openset.networks.base import Normalize, described
from openset.networks.resnet import BasicBlock
from openset.spec import Count

GRIDS = (8, 4, 2, 1)
"""Cells along the shorter side, on each level of the pyramid."""


class Ladder(nn.Module):
    """Labels pixels: stages down, a spatial pyramid, then rungs back up that take in each stage.

    Krešo, Krapac & Šegvić 2020, "Efficient Ladder-style DenseNets for Semantic Segmentation of
    Large Images", https://arxiv.org/abs/1905.05661

    Args:
        channels: Channels of the image; `normalize` starts as (x − 0.5) / 0.5 on each.
        stem: What comes before the first stage.
        stages: The stages, early to late; what each gives, all but the last, is a rung's skip.
        transitions: What lies between each stage and the next.
        widths: Channels that each stage gives.
        pyramid: Channels of the spatial pyramid's output, which a quarter of it makes.
        rungs: Channels of each step back up, from the last but one stage to the first.
        classes: The number of known classes.
        checkpoint: Compute stages and rungs again in the backward pass instead of storing them.
    """

    stages: tuple[str, ...]
    spec: dict[str, Any] | None = None

    def __init__(
        self,
        channels: int,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        transitions: Sequence[nn.Module],
        widths: Sequence[int],
        pyramid: int,
        rungs: Sequence[int],
        classes: int,
        checkpoint: bool = False,
    ):
        super().__init__()
        self.checkpoint = checkpoint
        self.normalize = Normalize([0.5] * channels, [0.5] * channels)
        self.stem = stem
        for i, stage in enumerate(stages, start=1):
            self.add_module(f"stage{i}", stage)
        self.stages = tuple(f"stage{i}" for i in range(1, len(stages) + 1))
        self.transitions = nn.ModuleList(transitions)
        self.pyramid = Pyramid(widths[-1], pyramid)
        inputs = (pyramid, *rungs)
        self.rungs = nn.ModuleList(
            Rung(inputs[i], skip, inputs[i + 1]) for i, skip in enumerate(reversed(widths[:-1]))
        )
        self.last = nn.Sequential(nn.BatchNorm2d(rungs[-1]), nn.ReLU())
        self.head = nn.Conv2d(rungs[-1], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[N, K, H, W]` of images `[N, C, H, W]` in 0…1."""
        x = self._run(self.stem, self.normalize(image))
        skips: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = self._run(self.get_submodule(stage), x)
            if i < len(self.transitions):
                skips.append(x)
                x = self._run(self.transitions[i], x)
        x = self._run(self.pyramid, x)
        for rung in self.rungs:
            x = self._run(rung, x, skips.pop())
        return resized(self.head(self.last(x)), image.shape[-2:])

    def _run(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        if not (self.checkpoint and torch.is_grad_enabled()):
            return module(*inputs)
        for part in module if isinstance(module, Parts) else [module]:
            # The second context is open while the part is computed again.
            inputs = (
                run_again(
                    part,
                    *inputs,
                    use_reentrant=False,
                    context_fn=lambda part=part: (nullcontext(), KeptStatistics(part)),
                ),
            )
        return inputs[0]


class Parts(nn.Sequential):
    """A sequence whose parts are stored and computed again one by one."""


class Pyramid(nn.Module):
    """Adds what is seen of the whole image, averaged over cells of four sizes.

    The grid's cells are about square; a map smaller than a grid keeps its own cells.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        quarter = outputs // len(GRIDS)
        self.before = rectified(inputs, outputs)
        self.levels = nn.ModuleList(rectified(outputs, quarter) for _ in GRIDS)
        self.fuse = rectified(outputs + len(GRIDS) * quarter, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        height, width = x.shape[-2:]
        seen = [x]
        for grid, level in zip(GRIDS, self.levels, strict=True):
            rows = min(grid * max(1, round(height / width)), height)
            columns = min(grid * max(1, round(width / height)), width)
            pooled = F.adaptive_avg_pool2d(x, (rows, columns))
            seen.append(resized(level(pooled), x.shape[-2:]))
        return self.fuse(torch.cat(seen, dim=1))


class Rung(nn.Module):
    """One step up: the coarse map enlarged, plus the stage's map, mixed by a 3×3 convolution."""

    def __init__(self, inputs: int, skip: int, outputs: int):
        super().__init__()
        self.skip = rectified(skip, inputs)
        self.mix = rectified(inputs, outputs, side=3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.mix(resized(x, skip.shape[-2:]) + self.skip(skip))


def rectified(inputs: int, outputs: int, side: int = 1) -> nn.Sequential:
    """Batch norm, ReLU and a convolution, in this order."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False),
    )


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map `[N, D, H, W]` brought to a size, bilinearly."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class KeptStatistics:
    """Keeps batch norm, while open, from updating its running statistics a second time.

    A class, because it is entered anew by each backward pass through the same activations.
    """

    def __init__(self, module: nn.Module):
        self.norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]

    def __enter__(self) -> None:
        self.before = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            # Turning the statistics off would change what is stored, which checkpointing refuses.
            norm.momentum = 0.0
            norm.num_batches_tracked = torch.zeros_like(self._tracked(norm))

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, tracked) in zip(self.norms, self.before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked

    @staticmethod
    def _tracked(norm: nn.BatchNorm2d) -> Tensor:
        assert norm.num_batches_tracked is not None
        return norm.num_batches_tracked


def initialised_ladder(network: Ladder) -> Ladder:
    """The network with He's initialisation by fan-in, the head's logits starting small."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.normal_(network.head.weight, std=0.01)
    assert network.head.bias is not None
    nn.init.zeros_(network.head.bias)
    return network


@described
def ladder_small(
    classes: Count, channels: Count = 3, width: Count = 32, checkpoint: bool = False
) -> Ladder:
    """A ladder of residual blocks for two cores: half a billion multiplications at 240×180.

    The form is that of Krešo et al. 2020, https://arxiv.org/abs/1905.05661, the encoder that of a
    small residual network; the logits lie on half the image's resolution and are enlarged.

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        width: Channels of the first stage; the next ones have 1, 2 and 4 times as many.
        checkpoint: Compute stages and rungs again in the backward pass instead of storing them.

    Example:
        >>> network = ladder_small(classes=9).eval()
        >>> network(torch.rand(1, 3, 60, 80)).shape
        torch.Size([1, 9, 60, 80])
    """
    widths = [width, width, 2 * width, 4 * width]
    stem = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
    stages: list[nn.Module] = [nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())]
    for inputs, outputs in pairwise(widths):
        stages.append(Parts(BasicBlock(inputs, outputs, stride=2), BasicBlock(outputs, outputs)))
    return initialised_ladder(
        Ladder(
            channels,
            stem,
            stages,
            [nn.Identity()] * 3,
            widths,
            pyramid=4 * width,
            rungs=(2 * width, width, width),
            classes=classes,
            checkpoint=checkpoint,
        )
    )
