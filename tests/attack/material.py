"""Targets of the attacks: small runs, models and data that openset itself has written."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import openset
from openset.detectors import DETECTORS, build

from .cases import command
from .runner import DECOY, MARKER, apart

DATA = "digits,limit=700"

CLASSES = 6
SIZE = 8
"""Of the digits, which most of the attack is made on."""

MODELS = {
    "energy": "energy",
    "odin": "odin",
    "mahalanobis": "mahalanobis:epsilon=0.001",
    "gemos": "gemos:components=1",
    "knn": "knn:k=5",
    "openmax": "openmax",
    "fusion": "fusion",
}
"""Models that are changed on disk, by the folder's name."""

SMALL = {
    "csi": "csi:crops=2",
    "gemos": "gemos:components=1",
    "knn": "knn:k=5",
    "pytorch-ood": "pytorch-ood:KNN,k=5",
}
"""Settings with which a detector works on little data, in little time."""

HEADS: dict[str, Callable] = {
    "binc": openset.networks.binary_heads,
    "vib": openset.networks.bottleneck,
    "viby-1": lambda network: openset.networks.bottleneck(network, priors=None),
    "viby-2": lambda network: openset.networks.bottleneck(network, priors=None),
    "c2ae": openset.networks.conditioned,
    "cgdl": openset.networks.gaussian_ladder,
    "crosr": openset.networks.ladder_codes,
    "csi": openset.networks.shifted,
    "deep-ensemble": openset.networks.ensemble,
    "generalized-odin": openset.networks.decomposed,
    "learned-confidence": openset.networks.confident,
    "ova": openset.networks.one_vs_all,
    "ovnni": openset.networks.one_vs_all,
    "subspaces": openset.networks.subspaces,
}
"""Changes to a plain classifier, for detectors that read more than it has."""


class Material:
    """Makes each piece when it is first asked for, in a process of its own.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """A piece by its name."""
        place = self.root / name
        if not place.exists():
            apart(make, place)
        return place

    @property
    def run(self) -> Path:
        """A run on six digits with a model of `energy`."""
        return self.made("run", _train)

    @property
    def decoy(self) -> Path:
        """A trained autoencoder, which nothing but its user may name."""
        return self.made(DECOY, _train_autoencoder)

    @property
    def models(self) -> Path:
        """A folder of models by name: those of `MODELS`, and `vmdls` with its autoencoder."""
        return self.made("models", _fit_models)

    @property
    def pictures(self) -> Path:
        """Twelve digits as files: PNG, JPEG and TIFF."""
        return self.made("pictures", _draw)

    @property
    def training(self) -> Path:
        """A training of three epochs that was cut off in the third."""
        return self.made("training", _cut_off)

    @property
    def results(self) -> Path:
        """A folder that `openset evaluate` wrote."""
        return self.made("results", partial(_evaluate, self.run))

    @property
    def store(self) -> Path:
        """Activations of two layers in two shards."""
        return self.made("store", _store)

    @property
    def table(self) -> Path:
        """A folder `zoo` with two parquet files."""
        return self.made("table", _tabulate)

    @property
    def class_folders(self) -> Path:
        """A folder `zoo` of two class folders."""
        return self.made("class-folders", _sort_into_folders)

    def train(self) -> None:
        """Trains `small_network` once for all forks, in one whose threads end with it."""
        _trained.update(load_file(self.made("small-network.safetensors", _train_small)))

    def expose(self) -> None:
        """Makes a package importable that leaves its mark when it is imported."""
        place = self.root / "payload"
        (place / "attack_payload").mkdir(parents=True, exist_ok=True)
        text = f"open({MARKER!r}, 'w').close()\n\n\ndef factory(*given, **named):\n    pass\n"
        (place / "attack_payload" / "__init__.py").write_text(text)
        sys.path.append(str(place))


def three_classes(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[n, 1, 8, 8]` in 0…1, each of its class's corner the brighter, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    image = torch.rand(n, 1, SIZE, SIZE, generator=generator) * 0.5
    for c, (i, j) in enumerate([(0, 0), (0, 4), (4, 0)]):
        image[labels == c, :, i : i + 4, j : j + 4] += 0.5
    return image, labels


def small_network(widths: tuple[int, ...] = (4, 8)) -> torch.nn.Module:
    """A network trained for a moment on `three_classes`."""
    torch.manual_seed(0)
    network = openset.networks.cnn(3, 1, widths=widths, hidden=8)
    if not _trained or widths != (4, 8):
        return trained(network)
    network.load_state_dict(_trained)
    return network.eval()


_trained: dict[str, torch.Tensor] = {}
"""The weights of `small_network`, once they are known."""


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """The network after a moment of training on `three_classes`."""
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    image, label = three_classes(240)
    network.train()
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    return network.eval()


def make_detector(name: str) -> openset.detectors.Detector:
    """A detector that works on little data."""
    return build(SMALL.get(name, name), **companions(3))


def companions(classes: int) -> dict[str, torch.nn.Module]:
    """Networks that a detector may need beside the classifier, by the settings that they are."""
    return {
        "autoencoder": openset.networks.autoencoder(1, SIZE, width=4),
        "generator": openset.networks.spade(classes, 1, width=4),
    }


def headed(name: str, network: torch.nn.Module) -> torch.nn.Module:
    """The network with what the detector of this name needs of it."""
    return HEADS.get(name, lambda plain: plain)(network)


def fitted(name: str) -> openset.OpenSet:
    """A calibrated model of one detector on `three_classes`; its network is in evaluation mode."""
    torch.manual_seed(0)
    network, detector = headed(name, small_network()).eval(), make_detector(name)
    train, held_out = [three_classes(240, 1)], [three_classes(240, 2)]
    return openset.fit(network, {name: detector}, train, held_out, accept=0.9)[name].eval()


def names() -> list[str]:
    """The detectors that can be built here."""
    from importlib.util import find_spec

    return sorted(name for name in DETECTORS if name != "pytorch-ood" or find_spec("pytorch_ood"))


def _train_small(place: Path) -> None:
    save_file(small_network().state_dict(), place)


def _train(place: Path) -> None:
    settings = "--epochs 6 --optimizer adam --lr 0.01 --batch-size 32 --valid 0.2"
    network = "cnn:widths=4+8,hidden=16"
    known = (DATA, "--known-classes", "0-5", "--network", network, "--out", place)
    command("train", *known, *settings.split())
    command("fit", place, "--detector", "energy", "--accept", "0.9")


def _train_autoencoder(place: Path) -> None:
    given = (DATA, "--network", "autoencoder:width=4", "--objective", "reconstruction")
    command("train", *given, "--epochs", "1", "--lr", "0.01", "--out", place)


def _fit_models(place: Path) -> None:
    data = openset.data.load(DATA, range(CLASSES), valid=0.2)
    torch.manual_seed(0)
    network = openset.networks.cnn(CLASSES, 1, widths=(4, 8), hidden=16)
    objective = openset.objectives.CrossEntropy(network)
    network = openset.train(
        objective, data, epochs=6, optimizer="adam", lr=0.01, batch_size=32, progress=False
    )
    autoencoder = openset.networks.autoencoder(1, SIZE, width=4)
    detectors = {name: build(spec) for name, spec in MODELS.items()}
    detectors["vmdls"] = build("vmdls", autoencoder=autoencoder)
    models = openset.fit(network, detectors, data.train, data.valid, accept=0.9)
    place.mkdir()
    for name, model in models.items():
        model.classes, model.adapter = data.classes, data.adapter
        model.save(place / name)


def _draw(place: Path) -> None:
    from sklearn.datasets import load_digits

    place.mkdir()
    for i, image in enumerate(load_digits().images[:12]):
        picture = Image.fromarray((image * 15.9).astype(np.uint8))
        picture.save(place / f"{i:02d}.{('png', 'jpg', 'tif')[i % 3]}")


class Stopping(openset.objectives.CrossEntropy):
    """Cross-entropy that raises in the third epoch, if it is told to."""

    stops = False

    def start_epoch(self, epoch: int) -> None:
        if self.stops and epoch == 2:
            raise ArithmeticError("cut off")


def training(folder: Path, *, stops: bool = False, resume: bool = False) -> torch.nn.Module:
    """The training that `resumed` goes on with."""
    torch.manual_seed(0)
    objective = Stopping(openset.networks.cnn(3, 1, widths=(4, 8), hidden=8))
    objective.stops = stops
    how = {"epochs": 3, "batch_size": 16, "lr": 0.05, "progress": False}
    return openset.train(objective, [three_classes(64)], folder=folder, resume=resume, **how)


def resumed(folder: Path) -> str:
    """The weights after the rest of a training, as sums."""
    network = training(folder, resume=True)
    return "\n".join(f"{k} {x.double().sum():.9g}" for k, x in network.state_dict().items())


def _cut_off(place: Path) -> None:
    with contextlib.suppress(ArithmeticError):
        training(place, stops=True)


def _evaluate(run: Path, place: Path) -> None:
    unknown = ("--unknown", "gaussian-noise,limit=60", "--detector", "energy")
    command("evaluate", run, *unknown, "--out", place)


def _store(place: Path) -> None:
    tap = openset.Tap(small_network(), ["stage1"])
    openset.extract(tap, [three_classes(20), three_classes(12)], store=place)


def _tabulate(place: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
    (place / "zoo").mkdir(parents=True)
    for split in ("train", "test"):
        cells = [{"bytes": png(8, 10 * i), "path": None} for i in range(16)]
        table = Dataset.from_dict({"image": cells, "label": [0, 1] * 8}, features)
        table.to_parquet(place / "zoo" / f"{split}.parquet")


def _sort_into_folders(place: Path) -> None:
    for c, name in enumerate(("cat", "dog")):
        (place / "zoo" / name).mkdir(parents=True)
        for i in range(8):
            (place / "zoo" / name / f"{i}.png").write_bytes(png(8, 20 * i + c))


def png(size: int, value: int) -> bytes:
    """A grey picture of one value."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


IMPORTED = (
    *("jinja2", "lightning_fabric", "matplotlib.figure", "pyarrow.parquet", "scipy.stats"),
    *("sklearn.covariance", "sklearn.datasets", "sklearn.manifold", "sklearn.metrics"),
    *("torch._dynamo", "openset.commands.app", "openset.reporting.page"),
)
"""Modules that most forks would take their seconds to import."""


def prepare_imports() -> None:
    """Imports here what the cases would import each for itself."""
    for name in IMPORTED:
        import_module(name)
    import datasets

    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
