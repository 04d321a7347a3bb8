"""Reads the data that settings are chosen on: the scores of many candidates in few passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from openset.activations import UNKNOWN, Activations
from openset.data import ImageSet, batches
from openset.data.loaders import images_at_once
from openset.detectors import Detector
from openset.extractors.extract import finite, named
from openset.extractors.perturb import Perturb
from openset.extractors.tap import Tap
from openset.networks.device import device_of
from openset.sampling import some_of_each

PIXELS = 2_000
"""Pixels of each image that settings are chosen on, where a network labels pixels."""


@dataclass(frozen=True)
class Validation:
    """Reads validation data: images through a tap, or activations as they are given."""

    tap: Tap | None
    batch_size: int
    limit: int | None
    seed: int

    def read(self, data: Any) -> Iterator[tuple[Tensor | None, Activations]]:
        """Images with their plain activations, on the CPU; None for images if there are none."""
        if self.tap is None:
            yield from ((None, batch) for batch in data)
            return
        device = device_of(self.tap)
        data = self._limited(data)
        dense = getattr(data, "dense", False)
        size = images_at_once(data, self.batch_size) if dense else self.batch_size
        for i, (image, label) in enumerate(batches(data, size)):
            with torch.no_grad(), named(i):
                image = image.to(device)
                seen = self.tap(image).to("cpu")
                finite(seen.logits, "the network's logits")
            seen.labels = label
            yield image, seen

    def _limited(self, data: Any) -> Any:
        """A seeded sample of the images, in their order."""
        if self.limit is None:
            return data
        if not isinstance(data, Dataset):
            raise ValueError(f"limit needs an ImageSet or a Dataset; got {type(data).__name__}")
        count = len(cast(Any, data))
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(count, generator=generator)[: self.limit].sort().values.tolist()
        return data.subset(chosen) if isinstance(data, ImageSet) else Subset(data, chosen)

    def scores(
        self, candidates: Sequence[Detector], data: Any, *, unknown: bool = False
    ) -> list[Tensor]:
        """The scores `[N]` of each candidate: of images, or of some pixels of one kind in each."""
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for image, seen in self.read(data):
            scores = _look(candidates, self.tap, image, seen)
            if seen.grid:
                chosen = some_pixels(seen, unknown, generator)
                scores = [score.flatten()[chosen] for score in scores]
            found.append(scores)
        if not sum(len(scores[0]) for scores in found):
            kind = "unknown" if unknown else "known"
            raise ValueError(f"nothing to tune on: the data hold no {kind} images or pixels")
        return [torch.cat(column) for column in zip(*found, strict=True)]


def some_pixels(seen: Activations, unknown: bool, generator: torch.Generator) -> Tensor:
    """Positions of some known or unknown pixels of each image in the flattened batch."""
    if seen.labels is None:
        raise ValueError("pixels can be tuned on only with label maps; give them with the images")
    kinds = (seen.labels == UNKNOWN) if unknown else (seen.labels >= 0)
    groups, size = kinds.flatten(1).long() - 1, kinds[0].numel()
    chosen = [some_of_each(row, PIXELS, generator) for row in groups]
    return torch.cat([i * size + places for i, places in enumerate(chosen)])


@torch.no_grad()
def _look(
    candidates: Sequence[Detector], tap: Tap | None, image: Tensor | None, seen: Activations
) -> list[Tensor]:
    """Scores one batch by each candidate, with no more forward passes or gradients than needed."""
    directions: dict[str, Tensor] = {}
    scores = []
    for candidate in candidates:
        view = candidate.view(cast(Tap, tap))
        if not candidate.looks_again:
            again = seen
        elif image is None:
            raise ValueError(
                f"{candidate.name} looks at the image again; give images and a tap, "
                "not activations, or a grid without that look"
            )
        elif isinstance(view, Perturb):
            # The gradient's sign is the same for every length of the step.
            key = repr({**candidate.settings(), "epsilon": None})
            if key not in directions:
                directions[key] = view.direction(image)
            again = view.extractor(image - view.epsilon * directions[key]).to("cpu")
        else:
            again = view(image).to("cpu")
        scores.append(candidate(again))
    return scores
