"""speed/border.py shows a network known images and outliers alike in 0…1."""

from types import SimpleNamespace

import pytest
import torch
from scripts import script

from openset.objectives.synthetic_outliers import uniform_divergence

border = script("border")

PIXELS = torch.randint(256, (6, 1, 24, 24), dtype=torch.uint8, generator=torch.manual_seed(3))


class ByBrightness(torch.nn.Module):
    """Two classes, the surer of one the brighter a pixel is."""

    def forward(self, x):
        return torch.cat([3 * x, torch.zeros_like(x)], 1)


class Labelled:
    """A test set that gives bytes, as data sets do."""

    dense = True

    def __len__(self):
        return len(PIXELS)

    def take(self, positions):
        return PIXELS[positions], torch.zeros(len(positions), 24, 24, dtype=torch.long)


def test_the_opinion_of_a_pasted_patch_is_that_of_what_is_pasted():
    """The network looks at single pixels, so where a patch lies must not matter."""
    run = SimpleNamespace(
        load_network=ByBrightness, load_data=lambda: SimpleNamespace(test=Labelled())
    )
    found = border.opinions(run, None, None, torch.device("cpu"))
    known = uniform_divergence(ByBrightness()(PIXELS.float() / 255)).mean()
    noise = border.kinds(None, (1, 4, 4), None, "cpu")["noise"][: len(PIXELS)]
    assert found["known"] == pytest.approx(known.item())
    assert found["noise"] == pytest.approx(uniform_divergence(ByBrightness()(noise)).mean().item())
