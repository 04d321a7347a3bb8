"""CSI: looks at one class and in one shift are alike, all others differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openset.data.simclr import simclr
from openset.networks.heads.shifted import SHIFTS, Shift, Shifted, shifted, shifted_image
from openset.objectives.base import Objective
from openset.spec import Count, Range


class CSI(Objective):
    """Trains features by contrast: alike are looks at one class in one shift, and no others.

    Two views of each image (`simclr`) are shifted in four ways, and the eight looks of the batch
    compared: each is to be nearest to those of its own class in its own shift (SupCon), so that
    the features know what a strange image looks like. A linear head learns beside it, from features
    as they are, to tell class and shift, and another the shift; no gradient of theirs reaches the
    network. The network that is kept looks four times and averages. An epoch costs eight times one
    of cross-entropy.

    `msp` is the paper's score with labels, `csi` the one without. Without `labels` only looks at
    one image in one shift are alike (NT-Xent), and the network is to tell the shift as well; the
    head of the classes is then the only part that sees a label. The paper trains heads in 100
    epochs after the others, and by LARS.

    Paper: Tack et al., *CSI: Novelty Detection via Contrastive Learning on Distributionally Shifted
    Instances*, 2020, https://arxiv.org/abs/2007.08176.

    Args:
        network: From square images `[N, C, H, H]` in 0…1 to logits `[N, K]`, trained or not; a copy
            of it gets other heads.
        shift: "rotation" as published; "cutperm", which swaps halves and takes any image, for
            those such as digits that are of another class when they are turned.
        flip: Whether half of the views are mirrored, which digits are not to be.
        area: Smallest share of an image that a view shows.
        temperature: Divides similarities; None takes the published 0.07, or 0.5 without labels.
        labels: Whether looks at other images of the class are alike.
        dim: Size of the projection that is compared.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> objective = CSI(inner)
        >>> [who for who, _ in objective.step(torch.rand(5, 1, 4, 4), torch.arange(5) % 3)]
        ['network', 'heads']
    """

    name = "csi"
    network: Shifted  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        network: nn.Module,
        shift: Shift = "rotation",
        flip: bool = True,
        area: Annotated[float, Range(above=0, most=1)] = 0.08,
        temperature: Annotated[float, Range(above=0)] | None = None,
        labels: bool = True,
        dim: Count = 128,
    ):
        super().__init__(shifted(network, shift, dim))
        self.shift: Shift = shift
        self.flip, self.area, self.temperature = flip, area, temperature
        self.labels, self.dim = labels, dim

    def learners(self) -> dict[str, nn.Module]:
        network = self.network
        return {
            "network": nn.ModuleList([network.network, network.projection]),
            "heads": nn.ModuleList([network.head, network.shift]),
        }

    def options(self) -> dict[str, dict[str, Any]]:
        adam = {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.0, "encoder_lr_factor": 1.0}
        return {"heads": adam}

    def step(self, image: Tensor, label: Tensor) -> Iterator[tuple[str, Tensor]]:
        network, count = self.network, 2 * len(image)
        which = torch.arange(SHIFTS, device=image.device).repeat_interleave(count)
        features = network.network(self.looks(image))
        alike = label if self.labels else torch.arange(len(image), device=image.device)
        groups = SHIFTS * alike.repeat(2 * SHIFTS) + which
        temperature = self.temperature or (0.07 if self.labels else 0.5)
        loss = contrast(network.projection(features), groups, temperature)
        if not self.labels:
            weight, bias = network.shift.weight.detach(), network.shift.bias.detach()
            loss = loss + F.cross_entropy(F.linear(features, weight, bias).float(), which)
        yield "network", loss
        features = features.detach()
        joint = F.cross_entropy(
            network.joint(features).float(), network.classes * which + label.repeat(2 * SHIFTS)
        )
        yield "heads", joint + F.cross_entropy(network.shift(features).float(), which)

    def looks(self, image: Tensor) -> Tensor:
        """Two views of each image in four shifts, `[8 · N, C, H, W]`, shift by shift."""
        if self.shift == "rotation" and image.shape[2] != image.shape[3]:
            raise ValueError(
                f"images are {list(image.shape[2:])}; only square ones can be turned: "
                "take --size, or shift=cutperm"
            )
        with torch.autocast(image.device.type, enabled=False):
            views = simclr(image.repeat(2, 1, 1, 1), torch.default_generator, self.area, self.flip)
        return torch.cat([shifted_image(views, self.shift, k) for k in range(SHIFTS)])


def contrast(z: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """SupCon: how far looks `[N, D]` are from being nearest to the others of their group `[N]`.

    The mean over looks i of −mean over others p of i's group of log exp(zᵢ·z_p / τ) / Σ_{a ≠ i}
    exp(zᵢ·z_a / τ), z of unit length. Where each group has two members it is NT-Xent.

    Paper: Khosla et al., *Supervised Contrastive Learning*, 2020, https://arxiv.org/abs/2004.11362.

    Example:
        >>> z, groups = torch.eye(2).repeat_interleave(2, 0), torch.tensor([0, 0, 1, 1])
        >>> contrast(z, groups, 1.0), contrast(z, groups, 0.5)
        (tensor(0.5514), tensor(0.2395))
    """
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z.float(), dim=1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        likeness = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
        share = likeness.log_softmax(1)
        positive = (groups[:, None] == groups) & ~itself
        return -(share.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)).mean()
