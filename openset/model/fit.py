"""Fitting and calibrating detectors on one pass over the known data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openset.activations import Activations, Each, EveryNth
from openset.data import batches
from openset.data.loaders import per_pixel
from openset.detectors import Detector
from openset.detectors.rows import known
from openset.extractors.extract import looks, stream
from openset.extractors.pixel_rows import HELD_OUT, PER_CLASS, pixel_rows
from openset.extractors.store import Store
from openset.fitted import Fitted
from openset.model.open_set import OpenSet
from openset.model.saved import restore
from openset.networks.device import device_of
from openset.processes import here, shared_folder
from openset.scoring.threshold import ALIKE, check_accept, training_quantile
from openset.scoring.views import tap_for, views

SAMPLED = 10_000
"""Training images, evenly drawn, that at most are scored for the threshold from training."""


def fit(
    network: nn.Module,
    detectors: Mapping[str, Detector],
    train: Any,
    held_out: Any,
    *,
    accept: float = 0.95,
    per_class: bool = False,
    batch_size: int = 256,
    store: str | None = None,
    training: bool = False,
    head: str | None = None,
) -> dict[str, OpenSet]:
    """Fits detectors on training images and calibrates them on held-out known ones.

    The training images pass the network once, for all detectors; their activations go through a
    store on disk, so memory does not grow with the number of images. Several processes share out
    the images, and then the detectors, of which each is fitted by one. `OpenSet.calibrate` says
    which held-out images a detector learns from, and which set its threshold.

    Where pixels are labelled, a sample of them takes the images' place: about equally many of each
    class to fit on, and any known ones to set the threshold (`pixel_rows`). Pixels of one
    image are alike, so the threshold then guarantees nothing, and says so.

    Args:
        network: A trained classifier.
        detectors: Detectors by name.
        train: The known images the network was trained on, with labels.
        held_out: Known images that the network was not trained on, with labels. The thresholds'
            guarantee rests on that and takes the caller's word for it.
        accept: The share of known images to accept.
        per_class: One threshold for each predicted class.
        batch_size: Images per pass.
        store: A folder for the activations; None uses a temporary one.
        training: Whether to note on each threshold the one that accepts this share of the training
            images, too, judged by at most `SAMPLED` of them.
        head: Path of the network's last linear map; None finds it.

    Returns:
        A calibrated model for each detector.

    Raises:
        ValueError: If too few held-out images are there for the share to accept.
    """
    check_accept(accept)  # Before hours of fitting.
    tap = tap_for(network, detectors.values(), head=head, refit=True)
    models = {}
    with shared_folder(store) as folder:
        learning = [d for d in detectors.values() if d.learns]
        seen_train: Any = None
        if learning or training:
            seen_train = activations(tap, train, folder / "train", batch_size, fitting=True)
        home = device_to_fit_on(network)
        for detector in here().share(learning):
            detector.fit(Each(seen_train, lambda batch: batch.to(home)))
        for owner, detector in enumerate(learning):
            hand_over(detector, owner, home)
        for i, (view, names) in enumerate(views(tap, detectors)):
            seen = activations(view, held_out, folder / f"held-out-{i}", batch_size)
            for name in names:
                own = tap_for(network, [detectors[name]], head=head)
                models[name] = OpenSet(own, detectors[name])
            for name in here().share(names):
                models[name].calibrate_on(seen, accept, per_class=per_class)
                models[name].doubt(ALIKE if per_pixel(held_out) else None)
            for owner, name in enumerate(names):
                hand_over_model(models[name], owner, home)
            if training:
                step = -(-len(seen_train) // SAMPLED)
                thinned = EveryNth(seen_train, step)
                if view.key != tap.key:
                    # Batches as large as before are left of those that are thinned.
                    thinned = stream(view, EveryNth(batches(train, batch_size * step), step))
                accept_training({name: models[name] for name in names}, thinned, accept)
    return {name: models[name] for name in detectors}


def hand_over(learned: Fitted, owner: int, home: torch.device) -> None:
    """Gives what one process has learned to the others, as a file would: its spec and its buffers.

    Args:
        learned: Fitted in that process, and made of the same settings in each.
        owner: The process's rank, or a number that it `owns`.
        home: This process's device, for what was learned on another one's.
    """
    group = here()
    if group.count == 1:
        return
    own, told = group.owns(owner), None
    if own:
        state = learned.state_dict()
        told = learned.spec(), {k: (x.cpu(), x.device.type == "cpu") for k, x in state.items()}
    told = group.give(told, owner % group.count)
    if own or told is None:
        return
    spec, state = told
    if learned.spec() != spec:  # Of what chooses its own parts as it is fitted.
        vars(learned).update(vars(restore(spec)))
    learned.load_state_dict({k: x if stays else x.to(home) for k, (x, stays) in state.items()})


def hand_over_model(model: OpenSet, owner: int, home: torch.device) -> None:
    """Gives the threshold that one process has set, and what lies behind it, to the others."""
    hand_over(model.detector, owner, home)
    hand_over(model.held_out, owner, home)
    model.set_threshold(here().give(model.threshold, owner % here().count))


def device_to_fit_on(network: nn.Module) -> torch.device:
    """The network's device, where scores are then computed too; the CPU for one without float64."""
    device = device_of(network)
    return device if device.type == "cuda" else torch.device("cpu")


@torch.no_grad()
def accept_training(
    models: Mapping[str, OpenSet], train: Iterable[Activations], accept: float
) -> None:
    """Notes on each model the threshold that accepts this share of training activations."""
    scores: dict[str, list[Tensor]] = {name: [] for name in models}
    for batch in train:
        rows = known(batch)
        for name, model in models.items():
            scores[name].append(model.detector.training_score(rows.beside(model.detector)))
    for name, model in models.items():
        assert model.threshold is not None
        cut = training_quantile(torch.cat(scores[name]), accept)
        model.set_threshold(replace(model.threshold, training=cut))


def activations(
    extractor: nn.Module, source: Any, store: Path, batch_size: int, *, fitting: bool = False
) -> Store | list[Activations]:
    """Extracts activations: of whole images all, into a store; of labelled pixels a sample."""
    group = here()
    if not per_pixel(source):
        return Store(store).collect(looks(extractor, source, batch_size, group.owns))
    most = PER_CLASS if fitting else HELD_OUT
    return pixel_rows(extractor, source, most, balanced=fitting, group=group)
