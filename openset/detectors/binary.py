"""Scores of networks trained with one sigmoid per class: BIN, BINC, Ensemble OVA, OVNNI."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from openset.activations import Activations
from openset.detectors.base import Detector


class BIN(Detector):
    """Scores an image by one minus the largest of its class-wise sigmoids, 1 − max σ(logit).

    For a network trained with the objective `bin`, whose logits each go through a sigmoid. The
    difference to one is computed without cancellation, so that saturated answers still rank.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3; the same score is studied by Padhy et al., *Revisiting One-vs-All Classifiers*, 2020,
    https://arxiv.org/abs/2007.05134.

    Example:
        >>> import torch
        >>> BIN().score(Activations(torch.tensor([[0.0, -9.0], [40.0, 50.0]]))) > 0
        tensor([True, True])
    """

    objectives = ("bin",)

    def score(self, rows: Activations) -> Tensor:
        return none_says_yes(rows.logits)


class BINC(Detector):
    """Scores an image as `BIN` does, by the sigmoid head beside the softmax head for the label.

    For a network trained with the objective `binc`. It reads the layer `"binary"`.

    Paper: Sreeramdass & Sarawagi, *Out-of-Distribution Image Detection with Deep Neural Networks*,
    §3, with the calibration of Kumar et al., 2018,
    https://proceedings.mlr.press/v80/kumar18a.html.

    Example:
        >>> import torch
        >>> rows = Activations(torch.zeros(1, 2), {"binary": torch.tensor([[0.0, -9.0]])})
        >>> BINC().score(rows)
        tensor([0.5000])
    """

    layers = ("binary",)

    objectives = ("binc",)

    def score(self, rows: Activations) -> Tensor:
        return none_says_yes(rows.values("binary"))


class OVA(Detector):
    """Scores an image or a pixel by one minus the largest answer of the classes' own networks.

    1 − max_c σ(a_c), and the label is the class that is surest. For a network trained with the
    objective `one-vs-all`; it reads the layer `"binary"`.

    Paper: Franchi et al., *One Versus all for deep Neural Network Incertitude (OVNNI)
    quantification*, 2020, https://arxiv.org/abs/2006.00954 (Ensemble OVA).

    Example:
        >>> import torch
        >>> rows = Activations(torch.zeros(1, 2), {"binary": torch.tensor([[0.0, -9.0]])})
        >>> OVA().score(rows)
        tensor([0.5000])
    """

    layers = ("binary",)
    objectives = ("one-vs-all",)

    def score(self, rows: Activations) -> Tensor:
        return none_says_yes(rows.values("binary"))

    def class_scores(self, rows: Activations) -> Tensor:
        return rows.values("binary")


class OVNNI(OVA):
    """Scores an image or a pixel by how little choice and answer say yes to one class together.

    −max_c log q_c with q_c = softmax_c(z) · σ(a_c), which ranks as 1 − max_c q_c does; the label is
    argmax_c q_c. For a network trained with the objective `one-vs-all`; it reads `"binary"` and the
    logits.

    Paper: Franchi et al., *One Versus all for deep Neural Network Incertitude (OVNNI)
    quantification*, 2020, https://arxiv.org/abs/2006.00954.

    Example:
        >>> import torch
        >>> rows = Activations(torch.zeros(1, 2), {"binary": torch.tensor([[0.0, -9.0]])})
        >>> OVNNI().score(rows).exp()
        tensor([4.])
    """

    def score(self, rows: Activations) -> Tensor:
        return -self.class_scores(rows).amax(1)

    def class_scores(self, rows: Activations) -> Tensor:
        return rows.logits.log_softmax(1) + F.logsigmoid(rows.values("binary"))


def none_says_yes(logits: Tensor) -> Tensor:
    """1 − max_c σ(logit_c), `[M, K]` → `[M]`, exact where the sigmoid saturates at 1."""
    return (-logits.max(1).values).sigmoid()
