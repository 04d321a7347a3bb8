"""speed/border.py shows a network known images and outliers alike in 0…1."""

from types import SimpleNamespace

import pytest
import torch
from scripts import script

from openset.activations import UNKNOWN
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
        label = torch.zeros(len(positions), 24, 24, dtype=torch.long)
        label[:, :2] = UNKNOWN
        return PIXELS[positions], label


def test_the_opinion_of_a_pasted_patch_is_that_of_what_is_pasted():
    """The network looks at single pixels, so where a patch lies must not matter."""
    run = SimpleNamespace(
        load_network=ByBrightness, load_data=lambda: SimpleNamespace(test=Labelled())
    )
    found = border.opinions(run, None, [], torch.device("cpu"))
    opinion = uniform_divergence(ByBrightness()(PIXELS.float() / 255))
    noise = border.kinds(None, (1, 4, 4), [], "cpu")["noise"][: len(PIXELS)]
    assert found["known"] == pytest.approx(opinion[:, 2:].mean().item())
    assert found["left out"] == pytest.approx(opinion[:, :2].mean().item())
    assert found["noise"] == pytest.approx(uniform_divergence(ByBrightness()(noise)).mean().item())


def test_the_table_has_means_over_the_seeds_and_leaves_out_what_was_not_measured():
    lines = [*border.table({"plain": [{"a": 1.0}, {"a": 3.0, "b": 5.0}], "flow": [{"b": 7.0}]})]
    assert lines[2:] == ["| plain | 2 | 5 |", "| flow |  | 7 |"]
