"""SubSpaces: the angle of an image's features to the line that each class lies on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.densities.base import need_rows
from openset.detectors.base import Detector
from openset.detectors.rows import Rows
from openset.moments import Moments
from openset.sampling import dropout_masks


class SubSpaces(Detector):
    """Scores an image by the angle, in radians, between its features and the nearest class's line.

    The line of a class is the first left singular vector of its training features, not centred. In
    many dimensions features of what is unknown are at nearly right angles to all lines. For a
    network trained with the objective `subspaces`; it reads the layer `"embedding"`.

    Paper: Zaeemzadeh et al., *Out-of-Distribution Detection Using Union of 1-Dimensional
    Subspaces*, 2021,
    https://openaccess.thecvf.com/content/CVPR2021/html/Zaeemzadeh_Out-of-Distribution_Detection_Using_Union_of_1-Dimensional_Subspaces_CVPR_2021_paper.html.

    Args:
        draws: The smallest angle over this many dropouts of the features is taken, the same ones
            for every image; 0 for the features as they are.
        rate: Share of the features that each dropout leaves out.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
        >>> seen = Activations(x, {"embedding": x}, torch.tensor([0, 0, 1, 1]))
        >>> SubSpaces().fit([seen])(seen).abs().max() < 1e-3
        tensor(True)
    """

    name = "subspaces"
    layers = ("embedding",)
    objectives = ("subspaces",)
    lines: Tensor
    masks: Tensor

    def __init__(self, draws: int = 0, rate: float = 0.1):
        super().__init__()
        if draws < 0 or not 0 <= rate < 1:
            raise ValueError(
                f"draws must be at least 0 and rate in 0…1, below 1; got {draws} and {rate}"
            )
        self.draws, self.rate = draws, rate

    def fit(self, batches: Iterable[Activations]) -> Self:
        rows = Rows(batches, self.layers)
        moments = Moments.of(rows, rows.classes)
        need_rows(moments.count, 1, self, "give more images of it")
        mean = moments.mean
        # About the origin, not about the mean: a line goes through the origin.
        second = moments.covariance() + mean[:, :, None] * mean[:, None]
        lines = torch.linalg.eigh(second).eigenvectors[..., -1]
        masks = dropout_masks(max(self.draws, 1), lines.shape[1], self.rate if self.draws else 0)
        self.keep(lines=lines.float(), masks=masks.to(lines.device))
        return self

    def score(self, rows: Activations) -> Tensor:
        x = rows.values("embedding")
        lines = self.lines.to(x.dtype)
        cosines = [
            (F.normalize(x * mask, dim=1) @ lines.T).abs().amax(1) for mask in self.masks.to(x)
        ]
        return torch.stack(cosines).amax(0).clamp(max=1).acos()
