"""All that is random in a training: seeded by the epoch, kept in checkpoints, given back after."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch


class Seeds(NamedTuple):
    """Independent seeds of one epoch, so that any epoch can be begun without those before it."""

    everything: int
    augmentation: int
    order: int

    @classmethod
    def of(cls, seed: int, epoch: int, rank: int = 0) -> Seeds:
        """The seeds of one of several processes; the order that all go by is that of rank 0."""
        own = [seed, epoch, *([rank] if rank else [])]
        drawn = np.random.SeedSequence(own).generate_state(3, np.uint64)
        return cls(*(int(x) for x in drawn))


class Randomness:
    """The random state of torch on the CPU and on one device, and of the augmentation.

    Args:
        device: The device that the training is on; no other is touched.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.augmentation = torch.Generator()

    def kept(self) -> AbstractContextManager:
        """Gives the caller's state back at the end."""
        return torch.random.fork_rng(devices=[self.device] if self._cuda else [])

    def seed(self, seeds: Seeds) -> None:
        """Brings everything to where an epoch starts."""
        torch.default_generator.manual_seed(seeds.everything)
        if self._cuda:
            torch.cuda.default_generators[self.device.index].manual_seed(seeds.everything)
        self.augmentation.manual_seed(seeds.augmentation)

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self._cuda else None,
            "random_augment": self.augmentation.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self._cuda:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.augmentation.set_state(state["random_augment"])

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"
