"""One pass over images for all detectors, with nothing computed twice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from openset.activations import Activations
from openset.data.loaders import numbered
from openset.detectors import Detector
from openset.extractors.base import Extractor
from openset.extractors.extract import finite, named
from openset.extractors.tap import Tap
from openset.networks.device import device_of
from openset.networks.layers import find_stages
from openset.spec import as_names


def layers_for(
    network: nn.Module, detectors: Iterable[Detector], *, refit: bool = False
) -> tuple[str, ...]:
    """The layers that some detector reads, each once; a default means all stages.

    Args:
        network: The network that they read.
        detectors: Fitted or not.
        refit: Whether they are about to be fitted, so that what an earlier fit chose is no matter.
    """
    stages = [f"stage{i}" for i in range(1, len(find_stages(network)) + 1)]
    default = [*stages, "penultimate"]
    asked = [d.layers if refit else d.layers_read for d in detectors]
    wanted = [name for names in asked for name in as_names(default if names is None else names)]
    # Stages in the network's order: what a detector reads must not depend on its companions.
    return tuple(dict.fromkeys([*(stage for stage in stages if stage in wanted), *wanted]))


def tap_for(
    network: nn.Module,
    detectors: Iterable[Detector],
    *,
    head: str | None = None,
    refit: bool = False,
) -> Tap:
    """A tap on all layers that some detector reads; see `layers_for` for the arguments."""
    return Tap(network, layers_for(network, detectors, refit=refit), head)


def views(tap: Tap, detectors: Mapping[str, Detector]) -> list[tuple[Extractor, list[str]]]:
    """The extractors that the detectors want, each with the names of those that share it.

    A view that only adds to the tap's activations serves those who want these alone, too.
    """
    groups: dict[Hashable, tuple[Extractor, list[str]]] = {}
    for name, detector in detectors.items():
        view = detector.view(tap)
        groups.setdefault(view.key, (view, []))[1].append(name)
    richer = [names for view, names in groups.values() if view.looks_again and not view.moves_image]
    if richer and tap.key in groups:
        richer[0].extend(groups.pop(tap.key)[1])
    return list(groups.values())


class Views:
    """One look at images for all detectors.

    Who looks again at a moved image sees the plain one on the way, so it serves the others.

    Args:
        tap: Reads the network; its layers must cover those of the detectors.
        detectors: By name.

    Example:
        >>> from openset.detectors import ODIN, MaxSoftmax
        >>> tap = Tap(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> both = Views(tap, {"msp": MaxSoftmax(), "odin": ODIN()})
        >>> for image, label, looks in both.stream([(torch.rand(2, 1, 2, 2), torch.zeros(2))]):
        ...     print([(names, len(seen)) for names, seen in looks])
        [(['msp'], 2), (['odin'], 2)]
    """

    def __init__(self, tap: Tap, detectors: Mapping[str, Detector]):
        groups = views(tap, detectors)
        self.tap = tap
        self.plain = [name for view, names in groups if view.key == tap.key for name in names]
        self.others = [(view, names) for view, names in groups if view.key != tap.key]

    def stream(
        self,
        source: object,
        batch_size: int = 256,
        wanted: Callable[[int], bool] = lambda number: True,
    ) -> Iterator[tuple[Tensor, Tensor, Iterator[tuple[list[str], Activations]]]]:
        """Images, labels and looks, one batch after another.

        Args:
            source: An image set, a data set of (image, label), a loader or a list of batches.
            batch_size: Images per pass.
            wanted: Says of a batch, counted from 0, whether to look at it.

        Returns:
            The images and labels of a batch; and for each group of detectors their names and
            activations, on the network's device, each computed when it is asked for.

        Raises:
            ValueError: If images or the network's logits hold NaN or infinite values.
        """
        device = device_of(self.tap)
        for number, image, label in numbered(source, batch_size, wanted):
            yield image, label, self._look(image.to(device), number)

    @torch.no_grad()
    def _look(self, image: Tensor, number: int) -> Iterator[tuple[list[str], Activations]]:
        waiting = self.plain
        for view, names in self.others:
            with named(number):
                plain, seen = map(_checked, view.both(image))
            if waiting:
                yield waiting, plain
                waiting = []
            yield names, seen
        if waiting:
            with named(number):
                seen = _checked(self.tap(image))
            yield waiting, seen


def _checked(seen: Activations) -> Activations:
    finite(seen.logits, "the network's logits")
    return seen
