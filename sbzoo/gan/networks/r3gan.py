"""R3GAN (Huang et al. 2024, arXiv 2501.05441), without normalization layers.

It trains with the relativistic loss and the penalties R1 and R2.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from sbzoo.errors import UserError
from sbzoo.gan.networks.blocks import ClassEmbedding, Lowpass, channel_widths, select_class

EXPANSION = 2  # of the channels in an inverted bottleneck
SLOPE = 0.2  # of the leaky ReLUs


@MODELS.register_module()
class R3GANGenerator(nn.Module):
    """Residual blocks and bilinear upsampling from a learned 4 x 4 map, scaled by the noise.

    In training the images are not clamped, as that would block their gradient; in evaluation they
    are, to [-1, 1].

    Args:
        image_size: S: 32, 64 or 128.
        noise_size: Dimensions of the noise, and of the class embedding.
        base_channels: Channels at full size, doubled at each downsampling. The paper's are 768 for
            CIFAR-10, and 384 at 64 pixels.
        max_channels: Limit of that.
        num_blocks: Residual blocks per resolution.
        group_size: Channels per group of the 3 x 3 convolutions.
        num_classes: 0 is unconditional.

    Raises:
        UserError: Unsupported image size, channels that are no multiple of the group size, or
            missing labels.
    """

    def __init__(
        self,
        image_size: int = 32,
        noise_size: int = 64,
        base_channels: int = 768,
        max_channels: int = 768,
        num_blocks: int = 2,
        group_size: int = 16,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.noise_size, self.num_classes = image_size, noise_size, num_classes
        widths = channel_widths(image_size, base_channels, max_channels)
        self.embedding = ClassEmbedding(num_classes, noise_size) if num_classes else None
        self.linear = nn.Linear(noise_size * (1 + bool(num_classes)), widths[0], bias=False)
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        levels = [_blocks(width, num_blocks, group_size) for width in widths]
        self.levels = nn.ModuleList(levels)
        self.transitions = nn.ModuleList(
            _pointwise(before, after) for before, after in pairwise(widths)
        )
        self.to_rgb = nn.Conv2d(widths[-1], 3, 1, bias=False)
        self.lowpass = Lowpass()
        _init_fixup(self)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """From noise [N, noise_size] and labels [N] to images [N, 3, S, S]."""
        if self.embedding is not None:
            noise = torch.cat([noise, self.embedding(labels)], dim=1)
        x = self.levels[0](self.basis * self.linear(noise)[:, :, None, None])
        for transition, blocks in zip(self.transitions, self.levels[1:], strict=True):
            x = blocks(self.lowpass.up(transition(x)))
        image = self.to_rgb(x)
        return image if self.training else image.clamp(-1, 1)


@MODELS.register_module()
class R3GANDiscriminator(nn.Module):
    """The generator in reverse: residual blocks and bilinear downsampling.

    Args:
        image_size: S: 32, 64 or 128.
        base_channels: See `R3GANGenerator`.
        max_channels: See `R3GANGenerator`.
        num_blocks: Residual blocks per resolution.
        group_size: Channels per group of the 3 x 3 convolutions.
        num_classes: 0 is unconditional; otherwise the logit is that of the label.

    Raises:
        UserError: See `R3GANGenerator`.
    """

    def __init__(
        self,
        image_size: int = 32,
        base_channels: int = 768,
        max_channels: int = 768,
        num_blocks: int = 2,
        group_size: int = 16,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        widths = channel_widths(image_size, base_channels, max_channels)[::-1]
        self.from_rgb = nn.Conv2d(3, widths[0], 1, bias=False)
        self.levels = nn.ModuleList(_blocks(width, num_blocks, group_size) for width in widths)
        self.transitions = nn.ModuleList(
            _pointwise(before, after) for before, after in pairwise(widths)
        )
        self.basis = nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False)
        self.linear = nn.Linear(widths[-1], max(num_classes, 1), bias=False)
        self.lowpass = Lowpass()
        _init_fixup(self)
        # The authors project on an embedding of the classes: a logit starts as large as theirs.
        self.linear.weight.data *= self.linear.out_features**-0.5

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """From images [N, 3, S, S] and labels [N] to logits [N]."""
        x = self.levels[0](self.from_rgb(images))
        for transition, blocks in zip(self.transitions, self.levels[1:], strict=True):
            x = blocks(transition(self.lowpass.down(x)))
        return select_class(self.linear(self.basis(x).flatten(1)), labels)


class InvertedBottleneck(nn.Module):
    """Residual inverted bottleneck: 1 x 1 expansion, grouped 3 x 3, 1 x 1 projection."""

    def __init__(self, channels: int, group_size: int) -> None:
        super().__init__()
        wide = EXPANSION * channels
        if wide % group_size:
            raise UserError(
                f'R3GAN: {wide} channels in a block ({EXPANSION} x {channels}) are no multiple of '
                f'group_size={group_size}'
            )
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide // group_size)
        self.conv3 = nn.Conv2d(wide, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """From [N, C, H, W] to the same shape."""
        y = F.leaky_relu(self.conv1(x), SLOPE)
        return x + self.conv3(F.leaky_relu(self.conv2(y), SLOPE))


def _blocks(channels: int, num_blocks: int, group_size: int) -> nn.Sequential:
    return nn.Sequential(*(InvertedBottleneck(channels, group_size) for _ in range(num_blocks)))


def _pointwise(in_channels: int, out_channels: int) -> nn.Module:
    if in_channels == out_channels:
        return nn.Identity()
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _init_fixup(net: nn.Module) -> None:
    """Fixup initialization, in place of a norm (Zhang et al. 2019, arXiv 1901.09321).

    The last convolution of a branch starts at zero, the other two are scaled down by the number of
    blocks. A class embedding is a linear layer on one-hot labels, of as many inputs as classes.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity='linear')
        elif isinstance(module, ClassEmbedding):
            nn.init.normal_(module.weight, std=module.num_embeddings**-0.5)
    blocks = [module for module in net.modules() if isinstance(module, InvertedBottleneck)]
    for block in blocks:
        for conv in (block.conv1, block.conv2):
            nn.init.kaiming_normal_(conv.weight, a=SLOPE)
            conv.weight.data *= len(blocks) ** -0.25
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(block.conv3.weight)
