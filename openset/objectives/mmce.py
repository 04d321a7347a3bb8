"""MMCE: a loss for confidences that match the share of right answers."""

from __future__ import annotations

import torch
from torch import Tensor


def mmce(probability: Tensor, correct: Tensor, bandwidth: float = 0.4) -> Tensor:
    """Measures the gap between probabilities and the share of right answers; 0 where they agree.

    The weighted estimator of the maximum mean calibration error. With m answers of which n are
    right, and the kernel k(r, r′) = exp(−|r − r′| / bandwidth), it is the square root of

        Σ (1 − rᵢ)(1 − rⱼ) k / n²            over pairs of right answers
      + Σ rᵢ rⱼ k / (m − n)²                 over pairs of wrong answers
      − 2 Σ (1 − rᵢ) rⱼ k / (n (m − n))      over pairs of a right and a wrong answer,

    which is the norm of one weighted sum, so each pair is averaged once. (The code published with
    the paper divides a second time.) Where all answers are right, or all wrong, one side is missing
    and the loss is 0, as it is there.

    Paper: Kumar, Sarawagi & Jain, *Trainable Calibration Measures for Neural Networks from Kernel
    Mean Embeddings*, 2018, https://proceedings.mlr.press/v80/kumar18a.html.

    Args:
        probability: r, what the model gives to its own answer, `[M]`, or `[M, K]` for K models.
        correct: Whether that answer is right, in the same shape; bool.
        bandwidth: Width of the Laplacian kernel.

    Returns:
        The loss, a scalar or `[K]`.

    Example:
        >>> answers = torch.tensor([True, True, True, False])
        >>> calibrated, too_sure = torch.full((4,), 0.75), torch.full((4,), 0.99)
        >>> mmce(calibrated, answers) < mmce(too_sure, answers)
        tensor(True)
    """
    r, right = probability.movedim(0, -1), correct.movedim(0, -1)
    wrong = ~right
    weight = torch.where(
        right,
        (1 - r) / right.sum(-1, keepdim=True).clamp_min(1),
        -r / wrong.sum(-1, keepdim=True).clamp_min(1),
    )
    kernel = torch.exp((r[..., :, None] - r[..., None, :]).abs() / -bandwidth)
    square = torch.einsum("...i,...ij,...j->...", weight, kernel, weight)
    return _root(torch.where(right.any(-1) & wrong.any(-1), square, 0))


def _root(square: Tensor) -> Tensor:
    """The square root, with gradient 0 instead of infinity at 0 and below."""
    positive = square > 0
    return torch.where(positive, square, 1).sqrt() * positive
