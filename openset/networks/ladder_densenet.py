"""Ladder-DenseNet-121, the segmentation network of the dense experiments."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from openset.networks.base import described
from openset.networks.densenet import DenseLayer
from openset.networks.external import IMAGENET_MEAN, IMAGENET_STD
from openset.networks.ladder import Ladder, Parts, initialised_ladder
from openset.spec import Count

PART = 3
"""Dense layers that are computed again together, where memory is short."""

LAYER = {"norm1": 0, "conv1": 2, "norm2": 3, "conv2": 5}
"""Torchvision's names of the parts of a dense layer, with their places in ours."""

NAMES = {
    r"conv0\.": lambda m: "stem.0.",
    r"norm0\.": lambda m: "stem.1.",
    r"denseblock(\d+)\.denselayer(\d+)\.(norm|conv)\.?([12])\.": lambda m: (
        f"stage{m[1]}.{(int(m[2]) - 1) // PART}.{(int(m[2]) - 1) % PART}.new.{LAYER[m[3] + m[4]]}."
    ),
    r"transition(\d+)\.norm\.": lambda m: f"transitions.{int(m[1]) - 1}.0.",
    r"transition(\d+)\.conv\.": lambda m: f"transitions.{int(m[1]) - 1}.2.",
    r"norm5\.": lambda m: "pyramid.before.0.",
}
"""Torchvision's names of DenseNet-121's parts, as patterns, with ours."""


class LadderDenseNet(Ladder):
    """A `Ladder` that also takes the weights of torchvision's DenseNet-121 into its encoder."""

    def translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state that torchvision's DenseNet-121 saved, under the names here; others as they are.

        The ladder's own weights are kept, the classifier's are left out, and images are normalised
        by ImageNet's mean and deviation, as those weights expect it.
        """
        first = next((key for key in state if key.endswith("features.conv0.weight")), None)
        if first is None:
            return state
        prefix = first.removesuffix("conv0.weight")
        inner = {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}
        moved = {_own_name(key): x for key, x in inner.items()}
        normalize = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        expected = {
            f"normalize.{key}": torch.tensor(values).view(-1, 1, 1)
            for key, values in normalize.items()
        }
        return {**self.state_dict(), **moved, **expected}


def _own_name(key: str) -> str:
    for pattern, own in NAMES.items():
        found = re.match(pattern, key)
        if found:
            return own(found) + key[found.end() :]
    return key  # Which `load_weights` then names as unexpected.


@described
def ladder_densenet_121(classes: Count, channels: Count = 3, checkpoint: bool = False) -> Ladder:
    """Labels pixels with a DenseNet-121 and a ladder of 256, 256 and 128 channels back up.

    Krešo, Krapac & Šegvić 2020, "Efficient Ladder-style DenseNets for Semantic Segmentation of
    Large Images", https://arxiv.org/abs/1905.05661. The logits lie on a quarter of the image's
    resolution and are enlarged bilinearly. Sides should be multiples of 32. Weights may be those of
    torchvision's DenseNet-121, which then fill the encoder: `weights = "densenet121.pth"` in a
    protocol, `--weights` on the command line.

    Args:
        classes: The number of known classes.
        channels: Channels of the image.
        checkpoint: Compute the network in parts again in the backward pass instead of storing it.

    Example:
        >>> ladder_densenet_121(classes=19).head
        Conv2d(128, 19, kernel_size=(1, 1), stride=(1, 1))
    """
    growth, blocks = 32, (6, 12, 24, 16)
    stem = nn.Sequential(
        nn.Conv2d(channels, 2 * growth, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(2 * growth),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    stages, transitions, widths, width = [], [], [], 2 * growth
    for count in blocks:
        layers = [DenseLayer(width + i * growth, growth) for i in range(count)]
        stages.append(Parts(*(nn.Sequential(*layers[i : i + PART]) for i in range(0, count, PART))))
        width += count * growth
        widths.append(width)
        if len(stages) < len(blocks):
            transitions.append(ladder_transition(width, width // 2))
            width //= 2
    network = LadderDenseNet(
        channels, stem, stages, transitions, widths, 512, (256, 256, 128), classes, checkpoint
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Few large crops a batch: a slow mean, as in the authors' code.
            module.momentum = 0.01
    return initialised_ladder(network)


def ladder_transition(inputs: int, outputs: int) -> nn.Sequential:
    """Transition between two blocks: fewer channels by a 1×1 convolution, and half the side."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    )
