"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958) at 32 to 128 pixels, in plain torch.

Without the regulariser of path lengths and the mixing of styles.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from sbzoo.gan.networks.blocks import (
    NO_NORM,
    ClassEmbedding,
    Lowpass,
    norm_layer,
    of_class,
    pyramid,
)
from sbzoo.gan.networks.stylegan2_layers import (
    EqualConv,
    EqualLinear,
    ModulatedConv,
    activated,
    deviation,
    unit,
)

W_MEAN_SHARE = 0.002  # of the newest batch in the mean of w


@MODELS.register_module()
class StyleGAN2Generator(nn.Module):
    """A mapping of noise to a style w, which modulates every convolution from a constant up.

    In training each map gets fresh noise from torch's generator of its device, the images are not
    limited, as their gradient would be, and `w_mean` follows the mean style. In evaluation the
    noise is that of the buffers, so that an image depends on its latent alone, and the images are
    cut off at -1 and 1.

    Args:
        image_size: S: 32, 64 or 128.
        noise_size: Length of the noise and of w.
        base_channels: Channels at full size; they double at each half.
        max_channels: At most that many.
        mapping_layers: Depth of the mapping.
        norm: 'none' demodulates; a spec of `sbzoo.norm` (without scale and shift) takes its place.
        num_classes: 0 is unconditional.

    Raises:
        UserError: Another image size, an unknown norm or one that needs its own scale and shift,
            or labels missing in a call.
    """

    def __init__(
        self,
        image_size: int = 64,
        noise_size: int = 512,
        base_channels: int = 64,
        max_channels: int = 512,
        mapping_layers: int = 8,
        norm: str = 'none',
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.noise_size, self.num_classes = image_size, noise_size, num_classes
        widths = pyramid(image_size, base_channels, max_channels)
        self.embedding = ClassEmbedding(num_classes, noise_size) if num_classes else None
        sizes = [noise_size * (1 + bool(num_classes))] + [noise_size] * mapping_layers
        self.mapping = nn.ModuleList(
            EqualLinear(before, after, lr_mult=0.01) for before, after in pairwise(sizes)
        )
        self.register_buffer('w_mean', torch.zeros(noise_size))
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.levels = nn.ModuleList(
            SynthesisLevel(widths[max(i - 1, 0)], width, 4 << i, noise_size, norm)
            for i, width in enumerate(widths)
        )

    def forward(
        self, noise: Tensor, labels: Tensor | None = None, truncation: float = 1.0
    ) -> Tensor:
        """From noise [N, noise_size] and labels [N] to images [N, 3, S, S].

        Args:
            noise: Latents.
            labels: Classes of a conditional generator.
            truncation: Factor on the distance of w to its mean: 1 is w itself, 0 the mean.
        """
        w = self.w_mean.lerp(self.style(noise, labels), truncation)
        x, image = self.constant.expand(len(w), -1, -1, -1), None
        for level in self.levels:
            x, image = level(x, image, w)
        return image if self.training else image.clamp(-1, 1)

    def style(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """From noise [N, noise_size] and labels [N] to w [N, noise_size]."""
        w = unit(noise)
        if self.embedding is not None:
            w = torch.cat([w, unit(self.embedding(labels))], dim=1)
        for layer in self.mapping:
            w = activated(layer(w))
        w = w.to(self.w_mean.dtype)  # under autocast it is not
        if self.training:
            self.w_mean.lerp_(w.detach().mean(0), W_MEAN_SHARE)
        return w


class SynthesisLevel(nn.Module):
    """The layers of one size, of which the first doubles the map, and their share of the image."""

    def __init__(self, before: int, after: int, size: int, style_size: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList([SynthesisLayer(after, after, size, style_size, norm)])
        if size > 4:
            first = SynthesisLayer(before, after, size, style_size, norm, up=True)
            self.layers.insert(0, first)
        self.to_rgb = ModulatedConv(after, 3, 1, style_size)
        self.rgb_bias = nn.Parameter(torch.zeros(3, 1, 1))
        self.lowpass = Lowpass()

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        """From maps [N, before, H, W] and an image to those of this size."""
        for layer in self.layers:
            x = layer(x, w)
        rgb = self.to_rgb(x, w) + self.rgb_bias
        return x, rgb if image is None else rgb + self.lowpass.up(image)


class SynthesisLayer(nn.Module):
    """A modulated convolution, demodulated or normalised, with noise and an activation."""

    def __init__(
        self, before: int, after: int, size: int, style_size: int, norm: str, up: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(before, after, 3, style_size, up, demodulate=norm == NO_NORM)
        self.norm = norm_layer(norm, after, affine=False)
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer('noise', torch.randn(1, 1, size, size))
        self.bias = nn.Parameter(torch.zeros(after, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """From [N, before, H, W] to [N, after, size, size]."""
        y = self.norm(self.conv(x, w))
        noise = self.noise
        if self.training:
            noise = torch.randn(len(y), 1, *y.shape[2:], device=y.device, dtype=y.dtype)
        return activated(y + self.strength * noise + self.bias)


@MODELS.register_module()
class StyleGAN2Discriminator(nn.Module):
    """Residual blocks that halve the map, and the standard deviation over a few images.

    Images of a batch share that: four, or as many of 3, 2 and 1 as divide the batch.

    Args:
        image_size: S: 32, 64 or 128.
        base_channels: Channels at full size; they double at each half.
        max_channels: At most that many.
        num_classes: 0 is unconditional; otherwise the logit is that of the label.

    Raises:
        UserError: Another image size, or labels missing in a call.
    """

    def __init__(
        self,
        image_size: int = 64,
        base_channels: int = 64,
        max_channels: int = 512,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        widths = pyramid(image_size, base_channels, max_channels)[::-1]
        self.from_rgb = EqualConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(
            ResidualDown(before, after) for before, after in pairwise(widths)
        )
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3, padding=1)
        self.linear = EqualLinear(widths[-1] * 4 * 4, widths[-1])
        self.logits = EqualLinear(widths[-1], max(num_classes, 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """From images [N, 3, S, S] and labels [N] to logits [N]."""
        x = activated(self.from_rgb(images))
        for block in self.blocks:
            x = block(x)
        x = activated(self.conv(torch.cat([x, deviation(x)], dim=1)))
        return of_class(self.logits(activated(self.linear(x.flatten(1)))), labels)


class ResidualDown(nn.Module):
    """Two convolutions, the second of stride two behind a low pass, and a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(before, before, 3, padding=1)
        self.conv2 = EqualConv(before, after, 3, stride=2)
        self.shortcut = EqualConv(before, after, 1, bias=False)
        self.lowpass = Lowpass()

    def forward(self, x: Tensor) -> Tensor:
        """From [N, before, H, W] to [N, after, H / 2, W / 2]."""
        y = self.lowpass(activated(self.conv1(x)), padding=2)
        y = activated(self.conv2(y))
        return (y + self.shortcut(self.lowpass.down(x))) / math.sqrt(2)
