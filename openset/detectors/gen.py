"""GEN: an entropy that looks closely at the small probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector
from openset.detectors.logits import log_unsure, positive
from openset.spec import Count


class GEN(Detector):
    """Scores an image by the generalised entropy of its largest class probabilities.

    Liu, Lochman & Zach, 2023,
    https://openaccess.thecvf.com/content/CVPR2023/html/Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_paper.html:
    Σ p^γ (1 − p)^γ over the M likeliest classes. Computed from logarithms, so that probabilities
    that round to 0 or 1 still rank.

    Args:
        gamma: γ in 0…1; the smaller, the more the small probabilities count.
        top: M, the number of classes that count; all where there are fewer.

    Example:
        >>> GEN(gamma=0.5).score(Activations(torch.zeros(1, 2))).tolist()
        [1.0]
    """

    name = "gen"

    def __init__(self, gamma: float = 0.1, top: Count = 100):
        super().__init__()
        self.gamma, self.top = positive(gamma, "gamma"), top

    def score(self, rows: Activations) -> Tensor:
        classes = min(self.top, rows.logits.shape[1])
        log_p = rows.logits.log_softmax(1).topk(classes).values
        # Only the largest probability can be so near to one that 1 − p cancels.
        others = torch.log1p(-log_p[:, 1:].exp())
        log_q = torch.cat([log_unsure(rows.logits)[:, None], others], dim=1)
        return (self.gamma * (log_p + log_q)).exp().sum(1)
