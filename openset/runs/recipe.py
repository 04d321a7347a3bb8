"""The facts that a run is made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from openset import data as images
from openset import networks
from openset.data import Adapter, Data, mean_std
from openset.objectives import OBJECTIVES, Objective, exposed_to
from openset.spec import build, check_kinds
from openset.training.settings import Settings


@dataclass(frozen=True)
class Recipe:
    """A recipe for a run: which data, which network, and how it is trained.

    The command line makes one, a run keeps the one it was made from, and a benchmark makes one for
    each of its trainings.

    Args:
        data: A data string, as `data.load` takes it; None for a network that is imported without.
        known_classes: As `data.load` takes them; None for all.
        size: Height and width of every image; None leaves images as they are stored.
        channels: 1 or 3; None leaves images as they are stored.
        resize: Treatment of another aspect ratio: `"stretch"`, `"shorter"` or `"pad"`.
        interpolation: The filter that resizes, such as `"bicubic"`.
        valid: Share of the training images that is held out for the threshold.
        network: The network with its settings, as `networks.build` takes it.
        objective: The training method with its settings, such as `cross-entropy`.
        weights: A file of weights to start from.
        skip_bad: Leave out images that cannot be read.
        settings: The training settings; their seed also decides what is held out.
    """

    data: str | None
    known_classes: str | None = None
    size: int | tuple[int, int] | None = None
    channels: int | None = None
    valid: float = 0.1
    network: str = "cnn"
    objective: str = "cross-entropy"
    weights: Path | None = None
    skip_bad: bool = False
    resize: str = "stretch"
    interpolation: str = "bilinear"
    settings: Settings = Settings()  # noqa: RUF009 (It is frozen.)

    def __post_init__(self):
        check_kinds("a recipe", type(self), vars(self))

    @property
    def seed(self) -> int:
        """Seed of the held-out images, of the first weights and of all chance in the training."""
        return self.settings.seed

    def to_plain(self) -> dict[str, Any]:
        """The recipe as JSON can hold it; `from_plain` reads it back."""
        return {**asdict(self), "weights": None if self.weights is None else str(self.weights)}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Self:
        """The recipe that `to_plain` described."""
        size, weights = values["size"], values["weights"]
        changes = {
            "size": tuple(size) if isinstance(size, list) else size,
            "weights": None if weights is None else Path(weights),
            "settings": Settings(**values["settings"]),
        }
        return cls(**{**values, **changes})

    @property
    def exposed_to(self) -> tuple[str, ...]:
        """Names of the unknown data that the network is trained on, as its objective declares."""
        return exposed_to(self.objective)

    def load_data(self, adapter: Adapter | None = None) -> Data:
        """The data, split and adapted; nothing is decoded yet.

        Args:
            adapter: The adapter that a run of this recipe kept; None makes it from the recipe.
        """
        return images.load(
            self.data,
            self.known_classes,
            size=self.size,
            channels=self.channels,
            resize=self.resize,
            interpolation=self.interpolation,
            adapter=adapter,
            valid=self.valid,
            seed=self.seed,
            skip_bad=self.skip_bad,
        )

    def build_objective(self, data: Data, *, ready: bool = True, **beside: Any) -> Objective:
        """The training method around a new network that fits the data.

        Args:
            data: As `load_data` gives them.
            ready: Whether the training can begin: the weights to start from are read, or the
                training images looked at to normalise them. Without, no file is read.
            beside: Networks or runs that the objective takes if it has a setting of that name and
                its string does not set it, as `flow-outliers` its `flow`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = networks.build(self.network, trust=None, **fitting(data))
            if ready:
                network = self._prepare(network, data)
            given = {**beside, "network": network}
            return build("objective", OBJECTIVES, self.objective, trust=None, **given)

    def _prepare(self, network: nn.Module, data: Data) -> nn.Module:
        if self.weights is not None:
            return networks.load_weights(network, self.weights)
        if getattr(network, "pretrained", False):
            return network  # It was trained behind the mean and deviation that it has.
        normalize = getattr(network, "normalize", None)
        if isinstance(normalize, networks.Normalize):
            mean, std = mean_std(data.train)
            normalize.mean.copy_(torch.tensor(mean).view(-1, 1, 1))
            normalize.std.copy_(torch.tensor(std).clamp_min(1e-3).view(-1, 1, 1))
        return network


def fitting(data: Data) -> dict[str, Any]:
    """The arguments that fit a network to the data, by the names of its factory's parameters."""
    return fitting_to(len(data.classes), data.adapter)


def fitting_to(classes: int, adapter: Adapter) -> dict[str, Any]:
    """As `fitting`, from a count of classes, for which factories have two names, and an adapter."""
    sizes = {"channels": adapter.channels, "size": adapter.size[0]}
    return {"classes": classes, "num_classes": classes, **sizes}
