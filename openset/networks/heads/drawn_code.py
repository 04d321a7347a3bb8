"""A classifier of a small code, from which the image can be drawn again (CPGM-AAE)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from openset.networks.base import described
from openset.networks.dcgan import Generator
from openset.networks.device import dtype_of
from openset.networks.heads.conditioned import channels_of
from openset.networks.heads.widened import Widened


class Error(nn.Module):
    """The mean squared error `[N, 1]` of images `[N, C, H, W]` that are drawn again."""

    def forward(self, image: Tensor, again: Tensor) -> Tensor:
        return (image - again).square().mean((1, 2, 3))[:, None]


class DrawnCode(Widened):
    """A network whose last features become a small code, which tells the class and the image.

    A tap reads the code as the layer `"mean"`, the last of `stages`, and how badly the image is
    drawn again from it, in units of the network's normalisation, as the layer `"error"`. Every call
    draws each image once.

    Args:
        network: As `Widened` takes it.
        dim: d, the size of the code.
        width: Maps of the layer before the decoder's last.
        drawn: Size of what the decoder draws from; None takes d.
        channels: Channels of the image; None reads them from the network.
        head: As `Widened` takes it.
    """

    def __init__(
        self,
        network: nn.Module,
        dim: int = 32,
        width: int = 32,
        drawn: int | None = None,
        channels: int | None = None,
        head: str | None = None,
    ):
        super().__init__(network, head)
        self.dim = dim
        self.mean = nn.Linear(self.features, dim)
        self.head = nn.Linear(dim, self.classes)
        self.decoder = Generator(channels or channels_of(network), width, noise=drawn or dim)
        self.error = Error()
        self.stages = (*self.stages, "mean")

    def encode(self, image: Tensor) -> Tensor:
        """Codes `[N, d]` of images."""
        return self.mean(self.network(image))

    def draw(self, z: Tensor, size: Sequence[int]) -> Tensor:
        """Images `[N, C, *size]` in 0…1 of what the decoder draws from, `[N, drawn]`."""
        return self.decoder.draw(z.to(dtype_of(self)), size)

    def missed(self, image: Tensor, again: Tensor) -> Tensor:
        """The errors `[N, 1]` of images drawn again, in units of the network's normalisation."""
        normalize = self.normalize or nn.Identity()
        return self.error(normalize(image.float()), normalize(again.float()))

    def forward(self, image: Tensor) -> Tensor:
        z = self.encode(image)
        self.missed(image, self.draw(z, image.shape[2:]))  # Not used here: a tap reads it.
        return self.head(z)


@described
def drawn_code(
    network: nn.Module,
    dim: int = 32,
    width: int = 32,
    channels: int | None = None,
    head: str | None = None,
) -> DrawnCode:
    """Puts a small code before a classifier's head, and a decoder that draws images from it.

    Sun et al., 2020, "Open Set Recognition with Conditional Probabilistic Generative Models",
    https://arxiv.org/abs/2008.05129 (CPGM-AAE). A tap reads the code as the layer `"mean"` and the
    error of the image drawn again as `"error"`.

    Args:
        network: From images to logits `[N, K]`, trained or not; its last linear layer is replaced.
        dim: d, the size of the code.
        width: Maps of the layer before the decoder's last.
        channels: Channels of the image; None reads them from the network.
        head: Path of that last linear layer; None finds it.

    Example:
        >>> import torch
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> network, image = drawn_code(inner, dim=2, width=4), torch.rand(5, 1, 4, 4)
        >>> network.encode(image).shape, network(image).shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """
    return DrawnCode(network, dim, width, channels=channels, head=head)
