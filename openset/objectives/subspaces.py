"""Classes trained to lie on lines at right angles to each other."""

from __future__ import annotations

from torch import nn

from openset.networks.heads.subspaces import Subspaces, subspaces
from openset.objectives.cross_entropy import CrossEntropy


class SubSpaces(CrossEntropy):
    """Trains features that lie, for each class, on a line of its own through the origin.

    The lines' directions are fixed and orthonormal, and the loss is cross-entropy of |cos| to them.
    It cannot fall below log(e + K − 1) − 1: 1.46 for 10 classes, 3.62 for 100.

    Paper: Zaeemzadeh et al., *Out-of-Distribution Detection Using Union of 1-Dimensional
    Subspaces*, 2021,
    https://openaccess.thecvf.com/content/CVPR2021/html/Zaeemzadeh_Out-of-Distribution_Detection_Using_Union_of_1-Dimensional_Subspaces_CVPR_2021_paper.html.

    Args:
        network: From images `[N, C, H, W]` in 0…1 to logits `[N, K]`, trained or not, with at least
            K features; a copy of it gets the head.

    Example:
        >>> import torch
        >>> objective = SubSpaces(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
        >>> objective.logits(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """

    name = "subspaces"
    network: Subspaces  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, network: nn.Module):
        super().__init__(subspaces(network))
