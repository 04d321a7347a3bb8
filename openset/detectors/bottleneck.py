"""Scores by the KL divergence of an image's code to the learned priors: VIB, VIBY."""

from __future__ import annotations

import torch
from torch import Tensor

from openset.activations import Activations
from openset.detectors.base import Detector


class Divergence(Detector):
    """Base of the detectors that read the layer `"divergence"`: KL of a code to priors, in nats."""

    layers = ("divergence",)

    def confidence(self, score: Tensor) -> Tensor:
        """The paper's confidence r = exp(−KL), in 0…1; 1 for an image that is surely known.

        To be shown, not to rank by: it underflows to 0.

        Example:
            >>> VIB().confidence(torch.tensor([0.0, 1000.0]))
            tensor([1., 0.])
        """
        return torch.exp(-score)


class VIB(Divergence):
    """Scores an image by the KL of its code to the one prior that training learned, in nats.

    For a network trained with the objective `vib`; it reads the layer `"divergence"`. The score is
    the KL itself: the paper's confidence exp(−KL) is 0 for whatever is more than 100 nats away.
    `confidence` gives it as a number to show.

    Paper: Alemi et al., *Uncertainty in the Variational Information Bottleneck*, 2018,
    https://arxiv.org/abs/1807.00906.

    Example:
        >>> VIB().score(Activations(torch.zeros(1, 3), {"divergence": torch.tensor([[7.0]])}))
        tensor([7.])
    """

    objectives = ("vib",)

    def score(self, rows: Activations) -> Tensor:
        divergence = rows.values("divergence")
        if divergence.shape[1] != 1:
            raise ValueError(
                f"vib reads the KL to one prior; this network has {divergence.shape[1]} priors: "
                "use viby-1 or viby-2"
            )
        return divergence.squeeze(1)


class VIBY1(Divergence):
    """Scores an image by the mean KL to the classes' priors, weighted by predicted probabilities.

    For a network trained with the objective `viby`; it reads the layer `"divergence"`.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3, eq. 6 (VIBY-I), after Alemi et al., 2018, https://arxiv.org/abs/1807.00906.

    Example:
        >>> divergence = torch.tensor([[7.0, 9.0]])
        >>> VIBY1().score(Activations(torch.zeros(1, 2), {"divergence": divergence}))
        tensor([8.])
    """

    name = "viby-1"

    objectives = ("viby",)

    def score(self, rows: Activations) -> Tensor:
        return (rows.logits.softmax(1) * per_class(rows)).sum(1)


class VIBY2(Divergence):
    """Scores an image by the KL of its code to the nearest class's prior, in nats.

    For a network trained with the objective `viby` or `cvaecaposr`; it reads the layer
    `"divergence"`.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3, eq. 7 (VIBY-II), after Alemi et al., 2018, https://arxiv.org/abs/1807.00906.

    Example:
        >>> divergence = torch.tensor([[7.0, 9.0]])
        >>> VIBY2().score(Activations(torch.zeros(1, 2), {"divergence": divergence}))
        tensor([7.])
    """

    name = "viby-2"

    objectives = ("viby", "cvaecaposr")

    def score(self, rows: Activations) -> Tensor:
        return per_class(rows).min(1).values


def per_class(rows: Activations) -> Tensor:
    """KL `[M, K]` to each class's prior."""
    divergence = rows.values("divergence")
    if divergence.shape[1] != rows.logits.shape[1]:
        raise ValueError(
            f"viby reads the KL to a prior per class; this network has {divergence.shape[1]} for "
            f"{rows.logits.shape[1]} classes: use vib, or train with the objective viby"
        )
    return divergence
