"""MC dropout and a random field on a network trained for neither, on real street scenes."""

import os
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn import functional as F

from openset.activations import UNKNOWN, VOID
from openset.data import Adapter, load_images
from openset.data.places import local_place
from openset.detectors import CRF, MaxSoftmax, MCDropout
from openset.extractors.tap import Tap

pytestmark = pytest.mark.slow
EVERY = 4
"""One pixel of so many counts in the average precision."""


@pytest.fixture(scope="module")
def tap():
    folder = Path(os.environ.get("OPENSET_MODELS", "."))
    file = folder / "deeplab-mobilenet-cityscapes.safetensors"
    sets = ("segmentmeifyoucan-roadanomaly21", "road-anomaly")
    if not file.exists() or any(local_place(name) is None for name in sets):
        pytest.skip("set OPENSET_MODELS and OPENSET_DATA to the folders of networks and data")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        from graph_net import GraphNet  # pyright: ignore[reportMissingImports]
    network = GraphNet(file).eval()
    last = f"l{len(network.spec['ops']) - 1}"
    old = network.get_submodule(last)  # A kind of its own, though it computes a 1×1 convolution.
    head = nn.Conv2d(old.in_channels, old.out_channels, 1)
    head.load_state_dict(old.state_dict())
    network.set_submodule(last, head)
    return Tap(network, ["penultimate"], head=last)


@pytest.mark.parametrize(
    ("name", "least"), [("segmentmeifyoucan-roadanomaly21", 0.45), ("road-anomaly", 0.15)]
)
@torch.no_grad()
def test_mutual_information_finds_what_is_no_part_of_a_street(tap, name, least):
    images = load_images(name, Adapter((577, 1025), 3))
    detectors = {"msp": MaxSoftmax()} | {seed: MCDropout(seed=seed) for seed in range(3)}
    scores, truth = {each: [] for each in detectors}, []
    for i, (image, label) in enumerate(images):
        seen, counts = tap(image[None]), label != VOID
        truth.append((label[counts] == UNKNOWN)[::EVERY])
        for each, detector in detectors.items():
            if i == 0:
                detector.fit([seen])
            score = F.interpolate(detector(seen)[:, None], label.shape, mode="bilinear")[0, 0]
            scores[each].append(score[counts][::EVERY])
    found = {
        each: average_precision_score(torch.cat(truth), torch.cat(parts))
        for each, parts in scores.items()
    }
    plain = found.pop("msp")
    print(name, f"msp {plain:.3f}", *(f"seed {seed} {ap:.3f}" for seed, ap in found.items()))
    assert min(found.values()) > plain
    assert found[0] >= least


@torch.no_grad()
def test_smoothed_maps_rank_about_as_the_plain_ones(tap):
    """As published: the random field changes little, and not for the better."""
    images = load_images("segmentmeifyoucan-roadanomaly21", Adapter((180, 320), 3))
    detectors = {
        "msp": MaxSoftmax(),
        "weight 1": CRF(sigma=5, weight=1),
        "published": CRF(),
    }
    scores, truth = {each: [] for each in detectors}, []
    for image, label in images.batches(1):
        counts = label != VOID
        truth.append(label[counts] == UNKNOWN)
        for each, detector in detectors.items():
            score = detector(detector.view(tap)(image))
            score = F.interpolate(score[:, None], label.shape[1:], mode="bilinear")[:, 0]
            scores[each].append(score[counts])
    found = {
        each: average_precision_score(torch.cat(truth), torch.cat(parts))
        for each, parts in scores.items()
    }
    print(*(f"{each} {ap:.3f}" for each, ap in found.items()))
    assert abs(found["weight 1"] - found["msp"]) < 0.03
    assert found["published"] < found["msp"] + 0.03
