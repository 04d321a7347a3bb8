"""Parameter counts, from each paper's table by formula and as published."""

from itertools import pairwise

import pytest
import torch

from openset.networks import build


def conv(inputs, outputs, side=3):
    return inputs * outputs * side**2


def norm(width):
    return 2 * width


def linear(inputs, outputs):
    return inputs * outputs + outputs


def resnet(blocks, classes, stem, channels=3):
    count = conv(channels, 64, 3 if stem == "small" else 7) + norm(64)
    inputs = 64
    for stage, repeats in enumerate(blocks):
        outputs = 64 * 2**stage
        for _ in range(repeats):
            count += conv(inputs, outputs) + conv(outputs, outputs) + 2 * norm(outputs)
            if inputs != outputs:
                count += conv(inputs, outputs, 1) + norm(outputs)
            inputs = outputs
    return count + linear(inputs, classes)


def wide_resnet(depth, width, classes):
    count, inputs = conv(3, 16), 16
    for outputs in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            count += norm(inputs) + conv(inputs, outputs) + norm(outputs) + conv(outputs, outputs)
            if inputs != outputs:
                count += conv(inputs, outputs, 1)
            inputs = outputs
    return count + norm(inputs) + linear(inputs, classes)


def densenet(blocks, growth, classes, stem):
    width = 2 * growth
    count = conv(3, width) if stem == "small" else conv(3, width, 7) + norm(width)
    for i, layers in enumerate(blocks):
        for _ in range(layers):
            count += norm(width) + conv(width, 4 * growth, 1)
            count += norm(4 * growth) + conv(4 * growth, growth)
            width += growth
        if i < len(blocks) - 1:
            count += norm(width) + conv(width, width // 2, 1)
            width //= 2
    return count + norm(width) + linear(width, classes)


def vgg(widths, batch_norm, neck):
    extra = norm if batch_norm else (lambda width: width)
    count = sum(conv(i, o) + extra(o) for i, o in pairwise([3, *widths]))
    return count + sum(linear(i, o) for i, o in pairwise(neck))


VGG13 = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]

COUNTS = [
    # The name, the formula, and the figure that is published, to the digits that are published.
    ("resnet18", 10, resnet((2, 2, 2, 2), 10, "small"), 11.17e6),
    ("resnet34", 10, resnet((3, 4, 6, 3), 10, "small"), 21.28e6),
    ("resnet18:stem=large", 1000, resnet((2, 2, 2, 2), 1000, "large"), 11_689_512),
    ("resnet34:stem=large", 1000, resnet((3, 4, 6, 3), 1000, "large"), 21_797_672),
    ("wrn-16-2", 10, wide_resnet(16, 2, 10), 0.69e6),
    ("wrn-16-4", 10, wide_resnet(16, 4, 10), 2.75e6),
    ("wrn-28-10", 10, wide_resnet(28, 10, 10), 36.5e6),
    ("densenet-bc-40", 10, densenet((6, 6, 6), 12, 10, "small"), None),
    ("densenet-bc-100", 10, densenet((16, 16, 16), 12, 10, "small"), 0.77e6),
    ("densenet-121", 10, densenet((6, 12, 24, 16), 32, 10, "small"), 6.96e6),
    ("densenet-121:stem=large", 1000, densenet((6, 12, 24, 16), 32, 1000, "large"), 7_978_856),
    ("vgg", 10, vgg([64, 128, *[256] * 6], True, [4096, 1024, 1024, 10]), None),
    ("vgg13", 10, vgg(VGG13, False, [512, 512, 512, 10]), None),
    ("plain-cnn", 10, vgg([100] * 5, False, [900, 500, 10]), None),
]


@pytest.mark.parametrize(("spec", "classes", "formula", "published"), COUNTS)
def test_parameters_are_counted_as_published(spec, classes, formula, published):
    count = sum(p.numel() for p in build(spec, classes=classes).parameters())
    assert count == formula
    if published is not None:
        assert count == pytest.approx(published, rel=0.006)


@pytest.mark.parametrize("spec", ["resnet18", "densenet-121"])
def test_the_large_stem_divides_the_side_by_four(spec):
    image = torch.rand(1, 3, 64, 64)
    small, large = (build(f"{spec}:stem={stem}", classes=2).eval() for stem in ("small", "large"))
    with torch.inference_mode():
        assert small.stem(small.normalize(image)).shape[-1] == 64
        assert large.stem(large.normalize(image)).shape[-1] == 16
