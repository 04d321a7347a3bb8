"""The contract of every training method: what learns, from which loss, and what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from openset.fitted import Fitted
from openset.networks.outputs import enlarged, logits_of


class Objective(Fitted):
    """A training method: a network, the modules that train beside it, and their losses.

    One loop (`openset.train`) serves all. Each learner is a child module with an optimiser of its
    own; `step` yields the learner's name with its loss, and the loop updates that learner before it
    asks for the next pair. Whatever must survive a resume is a buffer.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits, or to what `logits_of` finds them in.
    """

    classifies: ClassVar[bool] = True
    """Whether the network gives class scores; of one that does not, no accuracy is measured."""

    unknown_data: ClassVar[Sequence[str]] = ()
    """The settings that name unknown data to train on; all models and results say so."""

    network: nn.Module

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def learners(self) -> dict[str, nn.Module]:
        """The modules that learn, by the name that `step` yields; each has its own optimiser."""
        return {"network": self.network}

    def options(self) -> dict[str, dict[str, Any]]:
        """Optimiser settings that differ from the run's, by learner or by a part of one.

        A part is a module's path in its learner: `{"flow": {"lr": 1e-3}}`,
        `{"network.similarity": {"weight_decay": 0.0}}`. All else is as its learner has it.
        """
        return {}

    def order(
        self, labels: Tensor, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yields the indices of each batch of one epoch; a random permutation unless overridden."""
        yield from torch.randperm(len(labels), generator=generator).split(batch_size)

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yields (learner, loss) for one batch of images `[N, C, H, W]` and labels `[N, *grid]`."""
        raise NotImplementedError

    def logits(self, image: Tensor) -> Tensor:
        """The class scores `[N, K, *grid]`; of pixels as many as the image has."""
        return enlarged(logits_of(self.network(image)), image)

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, counted from 0."""

    def figures(self) -> dict[str, float]:
        """Figures of the epoch that ends for the log, beside losses and accuracy."""
        return {}

    def pictures(self) -> dict[str, Tensor]:
        """Pictures of the training for the report: uint8 images `[C, H, W]` by title."""
        return {}

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
        """The network to keep, after a last look at the training data if the method needs one."""
        return self.network
