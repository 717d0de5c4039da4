"""SNGAN (Miyato et al. 2018, arXiv 1802.05957): ResNets, unconditional or class-conditional.

With classes the generator has conditional normalization and the discriminator is a projection
discriminator (Miyato and Koyama 2018, arXiv 1802.05637).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from sbzoo.gan.networks.blocks import (
    ClassEmbedding,
    ConditionalNorm,
    add_spectral_norm,
    norm_layer,
    num_upsamples,
)

# Channels in units of `base_channels`: of the generator from 4 x 4 up, of the discriminator after
# each of its blocks. At 32 pixels only the first two of the discriminator's blocks downsample.
GENERATOR_WIDTHS = {32: (4, 4, 4, 4), 64: (16, 8, 4, 2, 1), 128: (16, 16, 8, 4, 2, 1)}
DISCRIMINATOR_WIDTHS = {32: (2, 2, 2, 2), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16)}
NUM_DOWNSAMPLES = {32: 2, 64: 5, 128: 5}


@MODELS.register_module()
class SNGANGenerator(nn.Module):
    """Residual blocks that upsample a 4 x 4 map to the image.

    By default it has 256 channels everywhere at 32 pixels, and 1024 to 64 above.

    Args:
        image_size: S: 32, 64 or 128.
        noise_size: Dimensions of the noise.
        base_channels: Unit of the channels.
        norm: A spec of `sbzoo.norm`, or 'none'.
        num_classes: 0 is unconditional.

    Raises:
        UserError: Unsupported image size, unknown norm, or missing labels.
    """

    def __init__(
        self,
        image_size: int = 32,
        noise_size: int = 128,
        base_channels: int = 64,
        norm: str = 'bn',
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        num_upsamples(image_size)  # raises for other sizes
        self.image_size, self.noise_size, self.num_classes = image_size, noise_size, num_classes
        widths = [base_channels * unit for unit in GENERATOR_WIDTHS[image_size]]
        self.linear = nn.Linear(noise_size, widths[0] * 4 * 4)
        self.blocks = nn.ModuleList(
            UpBlock(before, after, norm, num_classes) for before, after in pairwise(widths)
        )
        self.norm = norm_layer(norm, widths[-1])
        self.to_rgb = nn.Conv2d(widths[-1], 3, 3, padding=1)
        _init_xavier(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """From noise [N, noise_size] and labels [N] to images [N, 3, S, S] in [-1, 1]."""
        x = self.linear(noise).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            x = block(x, labels)
        return self.to_rgb(F.relu(self.norm(x))).tanh()


class UpBlock(nn.Module):
    """Pre-activation residual block, upsampled before its first convolution."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, num_classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(in_channels, norm, num_classes)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ConditionalNorm(out_channels, norm, num_classes)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """From [N, in_channels, H, W] to [N, out_channels, 2 H, 2 W]."""
        y = self.conv1(_upsampled(F.relu(self.norm1(x, labels))))
        y = self.conv2(F.relu(self.norm2(y, labels)))
        shortcut = self.shortcut(x)  # 1 x 1, so equal after upsampling at four times the cost
        return y + _upsampled(shortcut)


def _upsampled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


@MODELS.register_module()
class SNGANDiscriminator(nn.Module):
    """Residual blocks, global sum pooling and a linear layer, with projection of the class.

    Args:
        image_size: S: 32, 64 or 128.
        base_channels: Unit of the channels; 64 is 128 everywhere at 32 pixels, 64 to 1024 above.
        norm: A spec of `sbzoo.norm`, or 'none'.
        num_classes: 0 is unconditional.
        spectral_norm: Whether weights have spectral normalization.

    Raises:
        UserError: Unsupported image size, unknown norm, or missing labels.
    """

    def __init__(
        self,
        image_size: int = 32,
        base_channels: int = 64,
        norm: str = 'none',
        num_classes: int = 0,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        num_upsamples(image_size)  # raises for other sizes
        widths = [base_channels * unit for unit in DISCRIMINATOR_WIDTHS[image_size]]
        self.stem = StemBlock(widths[0], norm)
        self.blocks = nn.ModuleList(
            DownBlock(before, after, norm, downsample=level < NUM_DOWNSAMPLES[image_size])
            for level, (before, after) in enumerate(pairwise(widths), 1)
        )
        self.linear = nn.Linear(widths[-1], 1)
        self.embedding = ClassEmbedding(num_classes, widths[-1]) if num_classes else None
        _init_xavier(self)
        if spectral_norm:
            add_spectral_norm(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """From images [N, 3, S, S] and labels [N] to logits [N]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        features = F.relu(x).sum((2, 3))
        logits = self.linear(features).squeeze(1)
        if self.embedding is None:
            return logits
        return logits + (self.embedding(labels) * features).sum(1)


class StemBlock(nn.Module):
    """The first residual block, without pre-activation of the image."""

    def __init__(self, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, out_channels, 3, padding=1)
        self.norm2 = norm_layer(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(3, out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """From [N, 3, H, W] to [N, out_channels, H / 2, W / 2]."""
        y = self.conv2(F.relu(self.norm2(self.conv1(images))))
        return F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(images, 2))


class DownBlock(nn.Module):
    """Pre-activation residual block, downsampled after its last convolution, or not.

    As published, the second convolution changes the number of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, downsample: bool) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.norm2 = norm_layer(norm, in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        projects = downsample or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if projects else nn.Identity()
        self.pool = nn.AvgPool2d(2) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """From [N, in_channels, H, W] to [N, out_channels, H / 2, W / 2], or H and W."""
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        return self.pool(y) + self.shortcut(self.pool(x))


def _init_xavier(net: nn.Module) -> None:
    """Xavier initialization as published: gain sqrt(2) for the convolutions of a block, else 1."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            in_block = name.endswith(('conv1', 'conv2'))
            nn.init.xavier_uniform_(module.weight, math.sqrt(2) if in_block else 1.0)
            nn.init.zeros_(module.bias)
    if getattr(net, 'embedding', None) is not None:
        nn.init.xavier_uniform_(net.embedding.weight)
