"""Several networks of one architecture as one, and their training as one batched program."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from openset.networks.layers import find_stages


class PlainNorms(TorchFunctionMode):
    """Normalises batches by `plain_batch_norm`.

    On a GPU torch's own asks how its input lies in memory, which a batched one can't answer.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            return plain_batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def plain_batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` by arithmetic that any batched program knows."""
    if training:
        places = [i for i in range(x.dim()) if i != 1]
        among, centre = torch.var_mean(x, places, correction=0)
        if mean is not None and variance is not None:
            count = x.numel() // x.shape[1]
            with torch.no_grad():
                mean.mul_(1 - momentum).add_(momentum * centre)
                variance.mul_(1 - momentum).add_(momentum * count / max(count - 1, 1) * among)
    else:
        assert mean is not None
        assert variance is not None
        among, centre = variance, mean
    shape = [1, -1] + [1] * (x.dim() - 2)
    scale = (among + eps).rsqrt() if weight is None else weight * (among + eps).rsqrt()
    scaled = (x - centre.view(shape)) * scale.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


class Members(nn.ModuleList):
    """Networks of one architecture; gives their logits side by side, `[N, M · K, *grid]`."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([member(image) for member in self], dim=1)

    def together(self, image: Tensor) -> Tensor:
        """The logits `[M, N, K, *grid]` of all members, for training.

        One after another on a CPU, where grouped convolutions are slower than that.
        """
        if image.device.type == "cpu":
            return torch.stack([member(image) for member in self])
        return self.batched(image)

    def batched(self, image: Tensor) -> Tensor:
        """As `together`, from one batched program.

        Gradients and running statistics end in the members themselves. Grouped operations take the
        place of one small operation after another, each of which would leave a GPU idle. All in the
        weights' own precision: on a GPU the gradient of a batched normalisation takes no other.
        """
        state = [dict(member.named_parameters()) for member in self]
        statistics = [dict(member.named_buffers()) for member in self]
        stacked = {name: torch.stack([own[name] for own in state]) for name in state[0]}
        buffers = {
            name: torch.stack([own[name].detach() for own in statistics]) for name in statistics[0]
        }

        def one(parameters: dict[str, Tensor], its: dict[str, Tensor]) -> Tensor:
            return functional_call(self[0], (parameters, its), (image,))

        with torch.autocast(image.device.type, enabled=False), PlainNorms():
            logits = torch.vmap(one, randomness="different")(stacked, buffers)
        with torch.no_grad():
            for name, values in buffers.items():
                for own, value in zip(statistics, values, strict=True):
                    own[name].copy_(value)
        return logits


class Ensemble(nn.Module):
    """The mean opinion of several networks.

    A softmax of its logits gives the mean probabilities, and their energy is the mean energy. A tap
    reads the logits of all, side by side, as the layer `"members"`; its stages and features are
    those of the last member.

    Args:
        members: Networks of one architecture, from images to logits `[N, K, *grid]`.
    """

    spec: dict[str, Any] | None = None

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble needs at least 2 networks; got {len(members)}")
        shapes = [{name: x.shape for name, x in each.state_dict().items()} for each in members]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                "the networks of an ensemble must be of one architecture; these have weights of "
                "different names or shapes"
            )
        self.members = Members(members)
        last = len(members) - 1
        self.stages = tuple(f"members.{last}.{stage}" for stage in find_stages(members[last]))

    @property
    def normalize(self) -> nn.Module | None:
        """The first member's normalisation, if it has one."""
        return getattr(self.members[0], "normalize", None)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.members(image)
        return mean_opinion(logits.unflatten(1, (len(self.members), -1)).transpose(0, 1))


def mean_opinion(logits: Tensor) -> Tensor:
    """Logits `[N, K, *grid]` of the mean probabilities of members' logits `[M, N, K, *grid]`.

    Log probabilities alone would all have an energy of 0; the members' mean energy is added.
    """
    energy = logits.logsumexp(2).mean(0)
    return logits.log_softmax(2).logsumexp(0) - log(len(logits)) + energy[:, None]


def ensemble(network: nn.Module | Sequence[nn.Module], members: int = 5) -> Ensemble:
    """Joins networks of one architecture into one that gives their mean opinion.

    Lakshminarayanan et al., 2017, "Deep Ensembles", https://arxiv.org/abs/1612.01474.

    Args:
        network: Trained networks, as they are; or one, which becomes the first member and whose
            like, with weights of their own, the others are.
        members: How many, if one is given.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> ensemble(inner, members=3)(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """
    given = [network] if isinstance(network, nn.Module) else list(network)
    first = given[0]
    if isinstance(network, nn.Module):
        given += [restarted(first) for _ in range(members - 1)]
    joined = Ensemble(given)
    inner = getattr(first, "spec", None)
    if inner is not None:
        joined.spec = {"name": "ensemble", "network": inner, "members": len(given)}
    return joined


def restarted(network: nn.Module) -> nn.Module:
    """A copy of a network that starts from random weights of its own; its buffers are kept."""
    again = copy.deepcopy(network)
    spec = getattr(network, "spec", None)
    if spec is not None:
        from openset.networks import from_spec  # Which imports this.

        fresh = from_spec(spec)
        again.load_state_dict({**fresh.state_dict(), **dict(network.named_buffers())})
        return again
    for module in again.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return again
