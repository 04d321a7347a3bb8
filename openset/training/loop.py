"""One training loop for every objective, on Lightning Fabric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from openset.activations import VOID
from openset.data.samples import Batches, Samples, samples
from openset.errors import Paused
from openset.networks.device import choose_device
from openset.networks.outputs import enlarged, logits_of
from openset.networks.watch import evaluating
from openset.objectives.base import Objective
from openset.processes import here
from openset.training.checkpoints import RunFolder, run_folder
from openset.training.progress import Clock, Losses, progress_bar
from openset.training.randomness import Randomness, Seeds
from openset.training.settings import Settings
from openset.training.shared import add_gradients, batch_norm_of_all, make_equal, own_share

WATCHED = 1024
"""Rough number of training images, a tenth of all at most, whose accuracy is logged."""

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    objective: Objective,
    data: Any,
    settings: Settings | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    checkpoint_minutes: float = 10,
    max_minutes: float | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
    **changes: Any,
) -> nn.Module:
    """Trains a network and returns it, in evaluation mode, on the device it was trained on.

    The same seed gives the same weights, bit for bit on a CPU with the same number of threads; the
    caller's random state is left alone. One process trains on one device; several, as
    `openset train --devices` starts them, take a share each of every batch, and the first writes.

    Args:
        objective: The method to train by, with its network.
        data: A `Data` with `train` and maybe `valid`, or training images alone: an `ImageSet`, a
            `torch.utils.data.Dataset` of (image, label), a `DataLoader` or a list of batches.
        settings: Training settings, `Settings()` if None.
        folder: Folder for checkpoints, `log.jsonl` and `network.safetensors`; None keeps none.
        resume: Whether to go on with the run in `folder`, exactly where its last checkpoint was.
        checkpoint_minutes: A checkpoint is written after each epoch, and within one this often.
        max_minutes: After so many minutes a checkpoint is written and `Paused` raised.
        progress: Whether to draw a progress bar; there is none where there is no terminal.
        device: Device to train on; by default an accelerator if there is one.
        changes: Single settings that differ, as in `train(…, epochs=20, lr=0.01)`.

    Raises:
        ValueError: For settings, data, labels or a folder that cannot be used, and for a loss that
            is NaN or infinite.
        Paused: If `max_minutes` have passed.

    Example:
        >>> from openset.objectives import CrossEntropy
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batches = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)]
        >>> network = train(CrossEntropy(network), batches, epochs=2, lr=0.01)
        >>> network(torch.rand(3, 1, 2, 2)).shape
        torch.Size([3, 2])
    """
    from lightning_fabric import Fabric  # Slow to import.

    end = Clock(max_minutes)
    settings = (settings or Settings()).changed(changes)
    if folder is None and (resume or max_minutes is not None):
        raise ValueError("resume and max_minutes need a folder to keep checkpoints in")
    chosen = choose_device(device)
    devices = 1 if chosen.type == "cpu" or chosen.index is None else [chosen.index]
    fabric = Fabric(accelerator=chosen.type, devices=devices, precision=settings.precision)
    images = samples(getattr(data, "train", data), fabric.device)
    fabric.to_device(objective)
    judged = _judged(objective, images, getattr(data, "valid", None), settings.batch_size)
    description = _describe(objective, data, images, settings)
    kept = folder if here().first else None
    randomness = Randomness(fabric.device)
    with run_folder(kept, description, resume) as run, randomness.kept():
        loop = _Loop(fabric, objective, images, judged, settings, run, randomness)
        loop.restore()
        with batch_norm_of_all(objective):
            loop.run(Clock(checkpoint_minutes), end, progress and here().first)
        randomness.seed(Seeds.of(settings.seed, settings.epochs))
        objective.eval()
        network = objective.finish(images.batches(settings.batch_size)).eval()
        if run is not None:
            run.save_network(network)
            run.save_pictures(objective.pictures())
    return network


def accuracy(network: nn.Module, source: Any, batch_size: int = 256) -> float:
    """The share of images or pixels whose largest logit is that of their class.

    Args:
        network: From images to logits `[N, K, *grid]`; it runs in evaluation mode.
        source: Images as `train` takes them; labels below 0 are left out.
        batch_size: Images per forward pass.

    Returns:
        A share in 0…1; NaN if nothing is labelled.
    """
    device = next(network.parameters()).device
    with evaluating(network):
        return _share(_right(network, samples(source, device).batches(batch_size)))


@torch.no_grad()
def _right(logits: Callable[[Tensor], Tensor], batches: Iterable) -> Tensor:
    """The numbers of labels that the logits hit, and of all, `[2]`."""
    right = total = 0
    for image, label in batches:
        known = label >= 0
        answer = enlarged(logits_of(logits(image)), image).argmax(1)
        right += int(((answer == label) & known).sum())
        total += int(known.sum())
    return torch.tensor([right, total])


def _share(counts: Tensor) -> float:
    right, total = counts.tolist()
    return right / total if total else math.nan


@torch.no_grad()
def _judged(
    objective: Objective, images: Samples, valid: Any, batch_size: int
) -> dict[str, Batches]:
    """Batches whose accuracy is logged; checks the labels before the first step.

    Empty if the objective does not score classes, as an autoencoder's does not.
    """
    two, label = images.take(torch.arange(min(2, len(images))))
    try:
        with evaluating(objective):
            logits = objective.logits(two)
    except RuntimeError as error:
        raise ValueError(
            f"the network cannot take images of shape {list(two.shape[1:])}; check their channels "
            f"and size ({error})"
        ) from error
    if not objective.classifies or logits.shape[2:] != label.shape[1:]:
        return {}
    classes = logits.shape[1]
    wrong = images.labels[(images.labels < 0) | (images.labels >= classes)]
    wrong = wrong[wrong != VOID]
    if len(wrong):
        raise ValueError(
            f"a training label is {int(wrong[0])}, but the network has {classes} classes; labels "
            f"must lie in 0…{classes - 1}, or be {VOID} to be left out"
        )
    watched = torch.arange(0, len(images), max(10, len(images) // WATCHED))
    judged = {"train": images.batches(batch_size, watched)}
    if valid is not None and len(valid):
        judged["valid"] = samples(valid, images.device).batches(batch_size)
    return judged


def _describe(
    objective: Objective, data: Any, images: Samples, settings: Settings
) -> dict[str, Any]:
    """Describes a run by what it must share with the one that it resumes."""
    return {
        "objective": {"name": objective.name, **objective.settings()},
        "data": {"name": getattr(data, "name", None), **images.summary()},
        "settings": asdict(settings),
    }


def _augmentation(name: str | None) -> Any:
    """Function from images, labels and a generator to both after the change; None for no change."""
    if name in (None, "none"):
        return None
    from openset.data.augment import augmentation  # Here, because few runs need openset.data.

    return augmentation(name)


class _Loop:
    """A training run in motion: its state, and the steps that move it on."""

    def __init__(
        self,
        fabric: Fabric,
        objective: Objective,
        images: Samples,
        judged: dict[str, Batches],
        settings: Settings,
        run: RunFolder | None,
        randomness: Randomness,
    ):
        self.randomness = randomness
        self.fabric, self.objective = fabric, objective
        self.images, self.judged = images, judged
        self.settings, self.run_folder = settings, run
        if settings.channels_last:
            objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.learners = objective.learners()
        self.options = {name: settings.of(name, objective.options()) for name in self.learners}
        self.optimizers: dict[str, Any] = {
            name: fabric.setup_optimizers(own.build_optimizer(self.learners[name], parts))
            for name, (own, parts) in self.options.items()
        }
        self.augment = _augmentation(settings.augment)
        self.group = here()
        self.epoch, self.step = 0, 0
        self.losses = Losses()
        self.seconds = 0.0
        self.began, self.seen = time.monotonic(), 0

    def run(self, checkpoint: Clock, end: Clock, progress: bool) -> None:
        """Trains from where the state stands to the last epoch."""
        with progress_bar(progress) as bar:
            task = bar.add_task("", total=self.settings.epochs * len(self.images), epoch="")
            while self.epoch < self.settings.epochs:
                if self.step == 0:
                    self._start_epoch()
                batches = self._order()
                for batch in batches[self.step :]:
                    position = self.epoch + self.step / len(batches)
                    shown = f"{self.epoch + 1}/{self.settings.epochs}"
                    bar.update(task, completed=position * len(self.images), epoch=shown)
                    self._learn(batch, position)
                    self.step += 1
                    if self.group.agreed(end.rings()):
                        self._pause()
                    if self.group.agreed(checkpoint.rings()):
                        self._save()
                self._end_epoch()
            bar.update(task, completed=self.settings.epochs * len(self.images))

    def _start_epoch(self) -> None:
        """Brings all that is random, and the objective, to where this epoch starts."""
        self.randomness.seed(Seeds.of(self.settings.seed, self.epoch, self.group.rank))
        self.losses = Losses()
        self.objective.train()
        self.objective.start_epoch(self.epoch)

    def _order(self) -> list[Tensor]:
        """The indices of each batch of this epoch, the same whenever it is asked for."""
        seed = Seeds.of(self.settings.seed, self.epoch).order
        generator = torch.Generator().manual_seed(seed)
        batches = list(
            self.objective.order(self.images.labels, self.settings.batch_size, generator)
        )
        # Batch normalisation cannot learn from one image, so a leftover of one is skipped.
        return [batch for batch in batches if len(batch) > 1] or batches

    def _learn(self, batch: Tensor, position: float) -> None:
        """One batch: each learner is updated as soon as the objective yields its loss."""
        own, weight = own_share(batch)
        image, label = self.images.take(own)
        if self.augment is not None:
            image, label = self.augment(image, label, self.randomness.augmentation)
        if self.settings.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        steps = iter(self.objective.step(image, label))
        while True:
            with self.fabric.autocast():
                pair = next(steps, None)
            if pair is None:
                break
            self._update(*pair, weight, position)
        self.seen += len(batch)
        if self.epoch == self.step == 0:
            make_equal(self.objective)  # What starts from the first batch.

    def _update(self, learner: str, loss: Tensor, weight: float, position: float) -> None:
        (settings, parts), optimizer = self.options[learner], self.optimizers[learner]
        for group in optimizer.param_groups:
            its = parts.get(group["part"], settings)
            group["lr"] = its.lr_at(position) * group.get("factor", 1)
        optimizer.zero_grad()
        self.fabric.backward(loss * weight if self.group.count > 1 else loss)
        add_gradients(self.learners[learner].parameters())
        if settings.clip_norm is not None:
            self.fabric.clip_gradients(
                self.learners[learner],
                optimizer,
                max_norm=settings.clip_norm,
                error_if_nonfinite=False,
            )
        optimizer.step()
        self.losses.add(learner, loss, self.epoch, self.step)

    def _end_epoch(self) -> None:
        make_equal(self.objective)
        record = {"epoch": self.epoch + 1, "step": self.step, **self._measured()}
        self.epoch, self.step = self.epoch + 1, 0
        if self.run_folder is not None:
            self.run_folder.log(record)
        self._save()

    def _measured(self) -> dict[str, Any]:
        """The log's record of the epoch that ends."""
        seconds = time.monotonic() - self.began
        record = {
            "loss": self._losses(),
            "lr": {name: o.param_groups[0]["lr"] for name, o in self.optimizers.items()},
            "images_per_second": round(self.seen / seconds, 1),
            **self.objective.figures(),
        }
        with evaluating(self.objective), self.fabric.autocast():
            for part, batches in self.judged.items():
                found = self.group.total(_right(self.objective.logits, batches.share(self.group)))
                record[f"{part}_accuracy"] = _share(found)
        now = time.monotonic()
        self.seconds += now - self.began
        self.began, self.seen = now, 0
        return {**record, "seconds": round(self.seconds, 1)}

    def _losses(self) -> dict[str, float]:
        """The mean loss of each learner over the epoch and the processes."""
        means = self.losses.means()
        told = self.group.total(torch.tensor([*means.values()], dtype=torch.float64))
        return dict(zip(means, (told / self.group.count).tolist(), strict=True))

    def _pause(self) -> None:
        self._save()
        raise Paused(
            f"training paused after {self.epoch} of {self.settings.epochs} epochs and "
            f"{self.step} steps, because its time is up",
            "--resume (resume=True) goes on",
        )

    def _save(self) -> None:
        """Writes a checkpoint, if there is a folder for it."""
        self.losses.settle()
        make_equal(self.objective)
        own, *others = self.group.gather(self.randomness.state_dict())
        if self.run_folder is None:
            return
        self.run_folder.save(
            {
                "epoch": self.epoch,
                "step": self.step,
                "seconds": self.seconds + time.monotonic() - self.began,
                "objective": self.objective.state_dict(),
                "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
                "precision": self.fabric.strategy.precision.state_dict(),
                "losses": self.losses.state_dict(),
                "elsewhere": others,
                **own,
            }
        )

    def restore(self) -> None:
        """Goes to the last checkpoint; if there is none, makes the first."""
        state = self.group.once(lambda: self.run_folder.load() if self.run_folder else None)
        if state is None:
            self._save()  # The weights to start from, which the next process may not have.
            return
        try:
            self._load(state)
            if self.step:
                # The epoch's start freezes parts and clears sums: do that, then undo its changes.
                self._start_epoch()
                self._load(state)
        except Exception as error:  # Whatever its parts raise that were not saved together.
            raise ValueError(
                f"the checkpoint does not fit the training ({error}); begin again in another folder"
            ) from error

    def _load(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"] + 0.0
        if not 0 <= self.epoch <= self.settings.epochs or not 0 <= self.step <= len(self._order()):
            raise ValueError(f"it stands at epoch {self.epoch}, step {self.step}")
        self.began = time.monotonic()
        self.objective.load_state_dict(state["objective"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.losses.load_state_dict(state["losses"])
        # With more processes than before, the new ones begin at random where their epoch did.
        for own in [state, *state.get("elsewhere", [])][self.group.rank :][:1]:
            self.randomness.load_state_dict(own)
