"""Image-to-image networks: CycleGAN's ResNet, pix2pix's U-Net and the PatchGAN discriminator.

CycleGAN is Zhu et al. 2017 (arXiv 1703.10593), pix2pix Isola et al. 2017 (arXiv 1611.07004). Both
train at batch size 1 with instance norm.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from sbzoo.errors import UserError
from sbzoo.gan.networks.blocks import NO_NORM, init_normal, norm_layer


@MODELS.register_module()
class ResnetGenerator(nn.Module):
    """CycleGAN's generator: residual blocks at 1/4 of the resolution, with reflection padding.

    Args:
        base_channels: Channels at full size; the residual blocks have four times as many.
        num_blocks: 9 for images of 256 pixels, 6 for 128 (as published).
        norm: A spec of `sbzoo.norm`, or 'none'.

    Raises:
        UserError: Unknown norm.
    """

    def __init__(self, base_channels: int = 64, num_blocks: int = 9, norm: str = 'in') -> None:
        super().__init__()
        c, bias = base_channels, norm == NO_NORM
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *_with_relu(nn.Conv2d(3, c, 7, bias=bias), norm),
            *_with_relu(nn.Conv2d(c, 2 * c, 3, 2, 1, bias=bias), norm),
            *_with_relu(nn.Conv2d(2 * c, 4 * c, 3, 2, 1, bias=bias), norm),
            *(ResidualBlock(4 * c, norm) for _ in range(num_blocks)),
            *_with_relu(nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, 1, 1, bias=bias), norm),
            *_with_relu(nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1, bias=bias), norm),
            nn.ReflectionPad2d(3),
            nn.Conv2d(c, 3, 7),
            nn.Tanh(),
        )
        init_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """From images [N, 3, H, W], H and W multiples of 4, to images in [-1, 1]."""
        return self.model(images)


def _with_relu(conv: nn.Conv2d | nn.ConvTranspose2d, norm: str) -> list[nn.Module]:
    return [conv, norm_layer(norm, conv.out_channels), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """Residual block of two convolutions with norms and reflection padding."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        conv1, conv2 = (nn.Conv2d(channels, channels, 3, bias=norm == NO_NORM) for _ in range(2))
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_with_relu(conv1, norm),
            nn.ReflectionPad2d(1),
            conv2,
            norm_layer(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """From [N, C, H, W] to the same shape."""
        return x + self.conv_block(x)


@MODELS.register_module()
class PatchDiscriminator(nn.Module):
    """PatchGAN: a logit per patch; with three layers its receptive field is 70 x 70 pixels.

    Args:
        in_channels: 3, or 6 for source and target concatenated.
        base_channels: Channels of the first layer, which has no norm.
        num_layers: Strided convolutions.
        norm: A spec of `sbzoo.norm`, or 'none'.

    Raises:
        UserError: Unknown norm.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_channels: int = 64,
        num_layers: int = 3,
        norm: str = 'in',
    ) -> None:
        super().__init__()
        widths = [base_channels * min(2**level, 8) for level in range(num_layers + 1)]
        layers = [nn.Conv2d(in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for level, (before, after) in enumerate(pairwise(widths), 1):
            stride = 2 if level < num_layers else 1
            layers += [
                nn.Conv2d(before, after, 4, stride, 1, bias=norm == NO_NORM),
                norm_layer(norm, after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.model = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        init_normal(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """From images [N, C, H, W] to logits [N, 1, h, w]; labels are unused."""
        return self.model(images)


@MODELS.register_module()
class UnetGenerator(nn.Module):
    """pix2pix's U-Net generator: downsampling, upsampling, and skip connections between them.

    The innermost map is 1 x 1 for images of `2 ** num_downs` pixels and has no norm, as published:
    instance norm would set it to zero. The sides of larger images are multiples of that.

    Dropout in the inner levels is pix2pix's only noise. It is off in evaluation, where an image
    does not depend on the others of its batch, unless its norm does.

    Args:
        num_downs: Number of downsampling steps.
        base_channels: Channels after the first; they double up to eight times as many.
        norm: A spec of `sbzoo.norm`, or 'none'; the paper's is 'bn' with batch statistics in
            evaluation too, which at batch size 1 is 'in'.
        dropout: Its probability in levels with eight times the channels but the innermost.
        last_norm: Of the last decoder level, at half the resolution; None is `norm`. Instance norm
            there makes the network draw droplets (Karras et al. 2020, arXiv 1912.04958, section
            2), 'none' does not.

    Raises:
        UserError: Unknown norm, `num_downs` below 2, or sides that are no multiples.
    """

    def __init__(
        self,
        num_downs: int = 8,
        base_channels: int = 64,
        norm: str = 'in',
        dropout: float = 0.5,
        last_norm: str | None = None,
    ) -> None:
        super().__init__()
        if num_downs < 2:
            raise UserError(f'UnetGenerator: num_downs {num_downs}; it can be 2 or more')
        self.num_downs = num_downs
        widths = [base_channels * min(2**level, 8) for level in range(num_downs)]
        level = None
        for depth in range(num_downs - 1, 0, -1):
            drop = dropout if level is not None and widths[depth - 1] == widths[depth] else 0.0
            norms = norm, norm if depth > 1 or last_norm is None else last_norm
            level = UnetLevel(widths[depth - 1], widths[depth], level, norms, drop)
        self.down = nn.Conv2d(3, base_channels, 4, 2, 1)
        self.inner = level
        self.up = nn.ConvTranspose2d(2 * base_channels, 3, 4, 2, 1)
        init_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """From images [N, 3, H, W], sides multiples of `2 ** num_downs`, to images in [-1, 1]."""
        side = 2**self.num_downs
        if images.shape[2] % side or images.shape[3] % side:
            raise UserError(
                f'UnetGenerator of num_downs={self.num_downs}: images of {images.shape[2]} x '
                f'{images.shape[3]} pixels; both sides have to be multiples of {side}'
            )
        return self.up(F.relu(self.inner(self.down(images)))).tanh()


class UnetLevel(nn.Module):
    """U-Net level: downsamples, applies `inner`, upsamples, and concatenates with its input.

    Args:
        outer: Channels of its input C.
        inside: Channels of the downsampled map.
        inner: The next level, None for the innermost.
        norms: Specs of the downsampled and of the upsampled map, or 'none'.
        dropout: Probability.
    """

    def __init__(
        self,
        outer: int,
        inside: int,
        inner: UnetLevel | None,
        norms: tuple[str, str],
        dropout: float,
    ) -> None:
        super().__init__()
        innermost = inner is None
        down, up = (NO_NORM if innermost else norms[0]), norms[1]
        self.down = nn.Conv2d(outer, inside, 4, 2, 1, bias=down == NO_NORM)
        self.down_norm = norm_layer(down, inside)
        self.inner = nn.Identity() if innermost else inner
        self.up = nn.ConvTranspose2d(inside * (2 - innermost), outer, 4, 2, 1, bias=up == NO_NORM)
        self.up_norm = norm_layer(up, outer)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """From [N, C, H, W] to [N, 2 C, H, W]."""
        x = F.leaky_relu(x, 0.2)  # the skip comes behind the activation, as published
        y = self.inner(self.down_norm(self.down(x)))
        y = self.up_norm(self.up(F.relu(y)))
        return torch.cat([x, self.dropout(y)], dim=1)
