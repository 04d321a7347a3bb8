"""Arrays inside the page, as text that its script reads without losing a digit."""

from __future__ import annotations

import base64
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor


class Arrays:
    """Arrays as base64 text under their index; equal ones, such as labels, lie once."""

    def __init__(self):
        self.stored: list[tuple[str, str]] = []
        self._places: dict[bytes, int] = {}

    def put(self, x: Tensor, dtype: torch.dtype | None = None) -> int:
        """Returns the index of a tensor, which keeps its own precision unless one is named."""
        array = np.ascontiguousarray(x.detach().cpu().to(dtype or x.dtype).numpy())
        digest = sha256(str(array.dtype).encode() + array.tobytes()).digest()
        if digest not in self._places:
            self._places[digest] = len(self.stored)
            self.stored.append((str(array.dtype), base64.b64encode(array.tobytes()).decode()))
        return self._places[digest]

    def classes(self, x: Tensor) -> int:
        """Returns the index of classes, in as few bytes as they need."""
        few = not len(x) or (int(x.min()) >= 0 and int(x.max()) < 256)
        return self.put(x, torch.uint8 if few else torch.int16)

    def scores(self, x: Tensor) -> int:
        """Returns the index of scores; no digit is lost, on which a threshold may depend."""
        return self.put(x, torch.float64 if x.dtype == torch.float64 else torch.float32)
