"""A forest of random trees per class, in which unusual rows are soon alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from openset.densities.base import Density, in_chunks, need_rows
from openset.sampling import reservoir
from openset.spec import Count


class IsolationForest(Density):
    """Says how few random cuts it takes to separate a row from the training rows of its class.

    Liu, Ting & Zhou, "Isolation forest" (2008), https://doi.org/10.1109/ICDM.2008.17. The score is
    2^(−path / c), between 0 and 1: the mean path length over the trees, divided by that of a random
    search tree. scikit-learn grows the trees, from a seeded sample of at most `max_rows` rows a
    class; they become complete binary trees in tensors, in which the children of node i of a level
    are the nodes 2 i and 2 i + 1 of the next. The score is scikit-learn's `score_samples`, negated.

    Args:
        trees: Trees per class.
        samples: Rows that each tree is grown from; fewer where a class has fewer.
        max_rows: The most rows a class's trees are grown from.
        seed: Seed of the sample and the trees.

    Example:
        >>> density = IsolationForest().fit([torch.randn(100, 2)])
        >>> near, far = density(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
        >>> bool(far > near)
        True
    """

    feature: Tensor
    threshold: Tensor
    path: Tensor
    normal: Tensor

    def __init__(
        self, trees: Count = 100, samples: Count = 256, max_rows: Count = 50_000, seed: int = 0
    ):
        super().__init__()
        self.trees, self.samples, self.max_rows, self.seed = trees, samples, max_rows, seed

    def fit_classes(self, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Self:
        rows, counts = reservoir(batches, classes, self.max_rows, self.seed)
        need_rows(counts, 2, self, "give more images of it")
        forests = [self._grow(x) for x in rows]
        depth = max(tree.tree_.max_depth for forest in forests for tree in forest.estimators_)
        nodes = [[_complete(tree.tree_, depth) for tree in f.estimators_] for f in forests]
        feature, threshold, path = (
            torch.from_numpy(np.array([[tree[i] for tree in forest] for forest in nodes]))
            for i in range(3)
        )
        normal = _mean_path(np.array([forest.max_samples_ for forest in forests]))
        learned = {"threshold": _floor(threshold), "path": path, "normal": torch.from_numpy(normal)}
        target = rows[0].device, torch.promote_types(rows[0].dtype, torch.float32)
        self.keep(feature=feature.to(rows[0].device))
        self.keep(**{name: x.to(*target) for name, x in learned.items()})
        return self

    def _grow(self, x: Tensor) -> Any:
        from sklearn.ensemble import IsolationForest as Solver  # Slow to import.

        solver = Solver(n_estimators=self.trees, random_state=self.seed)
        solver.set_params(max_samples=min(self.samples, len(x)))
        return solver.fit(x.float().cpu().numpy())

    @property
    def classes(self) -> int:
        return len(self.path)

    def surprise(self, x: Tensor, c: int) -> Tensor:
        feature, threshold, path = self.feature[c], self.threshold[c], self.path[c]

        def score(x: Tensor) -> Tensor:
            # scikit-learn's trees compare in float32.
            x = x.float().to(threshold).T.contiguous()
            node = (x[feature[:, 0]] > threshold[:, :1]).long()
            start = 1
            while (start := 2 * start) < path.shape[1]:
                level = slice(start - 1, 2 * start - 1)
                value = x.gather(0, feature[:, level].gather(1, node))
                node = 2 * node + (value > threshold[:, level].gather(1, node))
            return torch.exp2(-path.gather(1, node).mean(0) / self.normal[c])

        return in_chunks(score, x)


def _complete(tree, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tree filled up to `depth`: features and thresholds by level, path lengths of the leaves.

    An early leaf stands for its whole subtree, so both of its children are itself.
    """
    left, right = tree.children_left, tree.children_right
    leaf = left < 0
    node, features, thresholds = np.zeros(1, int), [], []
    length = np.zeros(1)
    for _ in range(max(depth, 1)):
        features.append(np.where(leaf[node], 0, tree.feature[node]))
        thresholds.append(np.where(leaf[node], np.inf, tree.threshold[node]))
        length = np.repeat(length + ~leaf[node], 2)
        children = np.stack([np.where(leaf, np.arange(len(leaf)), side) for side in (left, right)])
        node = children[:, node].T.reshape(-1)
    path = length + _mean_path(tree.n_node_samples[node])
    return np.concatenate(features), np.concatenate(thresholds), path


def _mean_path(rows: np.ndarray) -> np.ndarray:
    """Mean length of an unsuccessful search among so many rows, equation 1 of the paper."""
    many = np.maximum(rows, 3)
    length = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return np.where(rows > 2, length, np.where(rows == 2, 1.0, 0.0))


def _floor(threshold: Tensor) -> Tensor:
    """The largest float32 not above: a float32 value passes it exactly if it passes the float64."""
    single = threshold.float()
    below = torch.nextafter(single, torch.tensor(-torch.inf))
    return torch.where(single.double() > threshold, below, single)
