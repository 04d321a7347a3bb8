"""The threshold of the largest macro-F1, found for all thresholds at once."""

from __future__ import annotations

import numpy as np

from openset.activations import UNKNOWN


def best_threshold(rank: np.ndarray, label: np.ndarray, predicted: np.ndarray) -> float:
    """The rank to accept up to for the largest macro-F1; −1 where rejecting all is best.

    F1 of a class is 2 · hits / (answered + true); cumulative counts along the sorted scores give it
    for all thresholds at once.
    """
    order = np.argsort(rank, kind="stable")
    rank, label, predicted = rank[order], label[order], predicted[order]
    accepted = np.arange(len(rank) + 1)
    hits = (label == UNKNOWN).sum() - _running(label == UNKNOWN)
    total = 2 * hits / (len(rank) - accepted + (label == UNKNOWN).sum())
    present = np.ones(len(accepted))
    for c in np.union1d(label[label != UNKNOWN], predicted):
        true, answered = label == c, _running(predicted == c)
        total += 2 * _running(true & (predicted == c)) / (answered + true.sum()).clip(1)
        present += (answered + true.sum()) > 0
    total /= present
    ends = np.append(np.flatnonzero(np.diff(rank, prepend=-1)), len(rank))
    best = ends[np.argmax(total[ends])]
    return float(rank[best - 1]) if best else -1.0


def _running(mask: np.ndarray) -> np.ndarray:
    """Counts those set among the first 0, 1, …, N, `[N + 1]`."""
    return np.concatenate([[0], np.cumsum(mask)])
