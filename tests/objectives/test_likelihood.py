"""The two plain codes against slow loops, and the training of a flow alone."""

import collections
import itertools
import json
import math

import pytest
import torch

from openset.activations import VOID
from openset.networks import real_nvp
from openset.objectives.codes import Codes
from openset.objectives.likelihood import Likelihood
from openset.training.loop import train


def entropy(values):
    counts = collections.Counter(values)
    return -sum(n / len(values) * math.log2(n / len(values)) for n in counts.values())


def levels(image):
    return (255 * image).round().long().tolist()


@pytest.mark.parametrize("each_pixel", [True, False])
def test_codes_are_as_long_as_the_slow_loops_say(each_pixel):
    torch.manual_seed(0)
    image = (torch.rand(40, 2, 3, 4) * 6).round() * torch.tensor([20, 40]).view(2, 1, 1) / 255
    codes = Codes()
    for part in image.split(15):
        codes.count(part, each_pixel=each_pixel)
    found = codes.bits()
    places = [(c, i, j) for c in range(2) for i in range(3) for j in range(4)]
    if each_pixel:
        expected = sum(entropy(levels(image[:, c, i, j])) for c, i, j in places) / 24
    else:
        expected = sum(entropy(levels(image[:, c].flatten())) for c in range(2)) / 2
    assert found["histogram_bits"] == pytest.approx(expected)
    rows = [row for one in levels(image) for plane in one for row in plane]
    steps = [b - a for row in rows for a, b in itertools.pairwise(row)]
    assert found["difference_bits"] == pytest.approx((8 + 3 * entropy(steps)) / 4)


def test_codes_count_the_chosen_images_alone():
    image, chosen = torch.rand(6, 3, 8, 8), torch.tensor([True, False, True, True, False, False])
    some, few = Codes(), Codes()
    some.count(image, chosen)
    few.count(image[chosen])
    assert some.bits() == few.bits()
    few.clear()
    assert few.bits() == {}


def test_large_images_have_one_histogram_a_channel():
    codes = Codes()
    codes.count(torch.rand(1, 3, 128, 128), each_pixel=True)
    assert codes.histogram.shape == (3, 256)


def test_a_flow_learns_alone_and_the_log_has_all_three_codes(tmp_path):
    torch.manual_seed(0)
    rows = torch.linspace(0, 1, 8)[:, None].expand(8, 8)
    slant = torch.rand(96, 1, 1, 1)
    image = ((slant * rows + (1 - slant) * rows.T) * 255).round() / 255
    flow = real_nvp(1, couplings=2, blocks=1, width=16)
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in image.split(32)]
    train(Likelihood(flow, lr=5e-3), batches, epochs=25, batch_size=32, folder=tmp_path, lr=9.0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"]["network"] == pytest.approx(lines[-1]["bits_per_dimension"])
    assert lines[-1]["bits_per_dimension"] < lines[0]["bits_per_dimension"] - 2
    assert lines[-1]["bits_per_dimension"] < lines[-1]["histogram_bits"] < 8
    assert {line["lr"]["network"] for line in lines} == {5e-3}


def test_label_maps_give_parts_without_void():
    image, label = torch.rand(4, 1, 32, 32), torch.zeros(4, 32, 32, dtype=torch.long)
    image[:, :, :20], label[:, :20] = 0, VOID  # Black padding.
    objective = Likelihood(real_nvp(1, squeezes=1, couplings=1, blocks=1, width=4))
    for _ in range(5):
        list(objective.step(image, label))
    zeros = objective.codes.histogram[0, 0] / objective.codes.histogram.sum()
    assert zeros < 0.02
    assert objective.figures()["bits_per_dimension"] > 7
