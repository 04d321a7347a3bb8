"""What makes a step of several processes, each on its share of a batch, the step of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from openset.processes import Processes, here


def own_share(batch: Tensor) -> tuple[Tensor, float]:
    """This process's part of a batch's indices, and the weight of its mean loss among all.

    Parts are every so many-th index, so that a batch made class by class is shared out evenly. Of
    fewer than two images a process, with which batch norm could not learn, each takes all.
    """
    group = here()
    if group.count == 1 or len(batch) < 2 * group.count:
        return batch, 1 / group.count
    part = batch[group.rank :: group.count]
    return part, len(part) / len(batch)


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gives each parameter the sum of its gradients over all processes.

    One that no process has a gradient for stays without, so that its optimiser passes over it.
    """
    group = here()
    if group.count == 1:
        return
    learning = [p for p in parameters if p.requires_grad]
    # On the CPU, so that nobody waits for an accelerator.
    there = group.total(torch.tensor([p.grad is not None for p in learning]).int()).tolist()
    for parameter in (p for p, anywhere in zip(learning, there, strict=True) if anywhere):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    _together([p.grad for p in learning if p.grad is not None], group.total)


@torch.no_grad()
def make_equal(objective: nn.Module) -> None:
    """Makes the state of an objective the same in all processes.

    Weights are those of the first. What was counted and averaged along the way becomes the mean
    over the processes, of which ratios, such as a class mean's, come out as of all images.
    """
    group = here()
    if group.count == 1:
        return
    _together(objective.parameters(), lambda flat: group.total(flat.mul_(group.first)))
    buffers = [*objective.buffers()]
    floats = [b for b in buffers if b.is_floating_point()]
    _together(floats, lambda flat: group.total(flat).div_(group.count))
    for flag in (b for b in buffers if b.dtype == torch.bool):
        flag.copy_(group.total(flag.int()) > 0)


def _together(tensors: Iterable[Tensor], change: Callable[[Tensor], Tensor]) -> None:
    """Changes tensors in place, all of one type as one vector: one meeting, not hundreds."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in kinds.values():
        flat = change(torch.cat([tensor.detach().flatten() for tensor in group]))
        for tensor, its in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.detach().copy_(its.view(tensor.shape))


@contextmanager
def batch_norm_of_all(module: nn.Module) -> Iterator[None]:
    """Lets batch norm learn, while open, from the shares of all processes as from one batch."""
    group = here()
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)] if group.count > 1 else []
    for norm in norms:
        norm.forward = partial(_normalise, norm, group)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalise(norm: _BatchNorm, group: Processes, x: Tensor) -> Tensor:
    """As batch norm does, with mean and variance over the batches of all processes."""
    if not norm.training and norm.running_mean is not None:
        return type(norm).forward(norm, x)
    axes = [0, *range(2, x.dim())]
    rows = x.float().movedim(1, -1)
    variance, mean = torch.var_mean(x.float(), axes, correction=0)
    count = torch.full_like(mean, x.numel() / x.shape[1])
    # In double precision, as E x² − (E x)² cancels.
    sums = torch.stack([count, count * mean, count * (variance + mean.double().square())])
    total, first, second = _Total.apply(sums.double(), group)
    mean = first / total
    variance = second / total - mean.square()
    _remember(norm, mean, variance * total / (total - 1))
    scaled = (rows - mean.float()) * (variance.float() + norm.eps).rsqrt()
    if norm.affine:
        scaled = scaled * norm.weight + norm.bias
    return scaled.movedim(-1, 1).to(x.dtype)


@torch.no_grad()
def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics on."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    by = norm.momentum
    weight = 1 / float(norm.num_batches_tracked) if by is None else by
    norm.running_mean.lerp_(mean.to(norm.running_mean), weight)
    norm.running_var.lerp_(variance.to(norm.running_var), weight)


class _Total(torch.autograd.Function):
    """The sum over all processes, as a step that gradients go back through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Processes) -> Tensor:
        ctx.group = group
        return group.total(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Total.apply(gradients[0], ctx.group), None
