"""DCGAN (Radford et al. 2016, arXiv 1511.06434)."""

from __future__ import annotations

from itertools import pairwise

from mmengine.registry import MODELS
from torch import Tensor, nn

from sbzoo.gan.networks.blocks import (
    NO_NORM,
    add_spectral_norm,
    init_normal,
    norm_layer,
    num_upsamples,
)


@MODELS.register_module()
class DCGANGenerator(nn.Module):
    """Transposed convolutions from a 4 x 4 map of `image_size / 8 * base_channels` channels.

    Args:
        image_size: S: 32, 64 or 128.
        noise_size: Dimensions of the noise.
        base_channels: Channels of the last map before the image.
        norm: A spec of `sbzoo.norm`, or 'none'.

    Raises:
        UserError: Unsupported image size or unknown norm.
    """

    num_classes = 0

    def __init__(
        self,
        image_size: int = 64,
        noise_size: int = 128,
        base_channels: int = 64,
        norm: str = 'bn',
    ) -> None:
        super().__init__()
        self.image_size, self.noise_size = image_size, noise_size
        levels = range(num_upsamples(image_size) - 1, -1, -1)
        widths = [base_channels << level for level in levels]
        layers = _up(noise_size, widths[0], norm, stride=1, padding=0)
        for before, after in pairwise(widths):
            layers += _up(before, after, norm)
        layers += [nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        init_normal(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """From noise [N, noise_size] to images [N, 3, S, S] in [-1, 1]; labels are unused."""
        return self.layers(noise[:, :, None, None])


def _up(
    in_channels: int, out_channels: int, norm: str, stride: int = 2, padding: int = 1
) -> list[nn.Module]:
    bias = norm == NO_NORM
    conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride, padding, bias=bias)
    return [conv, norm_layer(norm, out_channels), nn.ReLU(inplace=True)]


@MODELS.register_module()
class DCGANDiscriminator(nn.Module):
    """Strided convolutions down to a 4 x 4 map of `image_size / 8 * base_channels` channels.

    Args:
        image_size: S: 32, 64 or 128.
        base_channels: Channels of the first map.
        norm: A spec of `sbzoo.norm`, or 'none'; the first layer has none, as published.
        spectral_norm: Whether weights have spectral normalization.

    Raises:
        UserError: Unsupported image size or unknown norm.
    """

    def __init__(
        self,
        image_size: int = 64,
        base_channels: int = 64,
        norm: str = 'none',
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        widths = [base_channels << level for level in range(num_upsamples(image_size))]
        layers = _down(3, widths[0], NO_NORM)
        for before, after in pairwise(widths):
            layers += _down(before, after, norm)
        layers += [nn.Conv2d(widths[-1], 1, 4), nn.Flatten(0)]
        self.layers = nn.Sequential(*layers)
        init_normal(self)
        if spectral_norm:
            add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """From images [N, 3, S, S] to logits [N]; labels are unused."""
        return self.layers(images)


def _down(in_channels: int, out_channels: int, norm: str) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=norm == NO_NORM)
    return [conv, norm_layer(norm, out_channels), nn.LeakyReLU(0.2, inplace=True)]
