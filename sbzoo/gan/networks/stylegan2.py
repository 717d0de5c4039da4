"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958) at 32 to 128 pixels, in plain torch."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from sbzoo.gan.networks.blocks import (
    NO_NORM,
    ClassEmbedding,
    Lowpass,
    channel_widths,
    norm_layer,
    select_class,
)

W_MEAN_MOMENTUM = 0.002  # weight of the newest batch in the running mean of w
STDDEV_GROUP_SIZE = 4  # images in a group at most


@MODELS.register_module()
class StyleGAN2Generator(nn.Module):
    """Mapping network from noise to w, and a synthesis network that w modulates.

    In training the noise inputs are drawn anew, the images are not clamped, as that would block
    their gradient, and `w_mean` is a running mean of w. In evaluation the noise inputs are constant
    buffers, so that an image depends on its latent alone, and the images are clamped to [-1, 1].

    Args:
        image_size: S: 32, 64 or 128.
        noise_size: Dimensions of the noise and of w.
        base_channels: Channels at full size, doubled at each downsampling.
        max_channels: Limit of that.
        mapping_layers: Depth of the mapping network.
        norm: 'none' is weight demodulation; a spec of `sbzoo.norm` (without affine) replaces it.
        num_classes: 0 is unconditional.
        style_mixing: Style mixing, in training: the probability that the layers of a batch behind a
            random one have the styles of other noise (Karras et al. 2019, arXiv 1812.04948).

    Raises:
        UserError: Unsupported image size, unknown norm or one that needs its own affine,
            or missing labels.
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
        style_mixing: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size, self.noise_size, self.num_classes = image_size, noise_size, num_classes
        self.style_mixing = style_mixing
        widths = channel_widths(image_size, base_channels, max_channels)
        self.embedding = ClassEmbedding(num_classes, noise_size) if num_classes else None
        sizes = [noise_size * (1 + bool(num_classes))] + [noise_size] * mapping_layers
        self.mapping = nn.ModuleList(
            EqualLinear(before, after, lr_mult=0.01) for before, after in pairwise(sizes)
        )
        self.register_buffer('w_mean', torch.zeros(noise_size))
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.levels = nn.ModuleList(
            SynthesisBlock(widths[max(i - 1, 0)], width, 4 << i, noise_size, norm)
            for i, width in enumerate(widths)
        )
        self.num_styles = 1 + sum(len(level.layers) for level in self.levels)

    def forward(
        self,
        noise: Tensor,
        labels: Tensor | None = None,
        truncation: float = 1.0,
        return_styles: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """From noise [N, noise_size] and labels [N] to images [N, 3, S, S].

        Args:
            noise: Latents.
            labels: Classes of a conditional generator.
            truncation: Truncation psi: 1 is w itself, 0 its running mean.
            return_styles: Whether to return the styles [N, L, noise_size] too.
        """
        styles = self.w_mean.lerp(self.styles(noise, labels), truncation)
        images = self.synthesis(styles)
        return (images, styles) if return_styles else images

    def synthesis(self, styles: Tensor) -> Tensor:
        """From styles [N, L, noise_size] of the L - 1 layers and the last RGB output to images."""
        x, image = self.constant.expand(len(styles), -1, -1, -1), None
        for level in self.levels:
            layers = len(level.layers)
            x, image = level(x, image, styles[:, : layers + 1])
            styles = styles[:, layers:]  # an RGB output has the style of the layer that follows
        return image if self.training else image.clamp(-1, 1)

    def styles(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The style of each layer, [N, L, noise_size], of noise [N, noise_size] and labels [N]."""
        styles = self.style(noise, labels)[:, None].repeat(1, self.num_styles, 1)
        if self.training and self.style_mixing and torch.rand(()) < self.style_mixing:
            first = torch.randint(1, self.num_styles, ())
            styles[:, first:] = self.style(torch.randn_like(noise), labels)[:, None]
        return styles

    def style(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mapping network: from noise [N, noise_size] and labels [N] to w [N, noise_size]."""
        w = normalize_2nd_moment(noise)
        if self.embedding is not None:
            w = torch.cat([w, normalize_2nd_moment(self.embedding(labels))], dim=1)
        for layer in self.mapping:
            w = scaled_leaky_relu(layer(w))
        w = w.to(self.w_mean.dtype)  # under autocast it is another
        if self.training:
            self.w_mean.lerp_(w.detach().mean(0), W_MEAN_MOMENTUM)
        return w


class SynthesisBlock(nn.Module):
    """The layers of one resolution, of which the first upsamples, and their RGB output."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, style_size: int, norm: str
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [SynthesisLayer(out_channels, out_channels, size, style_size, norm)]
        )
        if size > 4:
            first = SynthesisLayer(in_channels, out_channels, size, style_size, norm, up=True)
            self.layers.insert(0, first)
        self.to_rgb = ModulatedConv(out_channels, 3, 1, style_size)
        self.rgb_bias = nn.Parameter(torch.zeros(3, 1, 1))
        self.lowpass = Lowpass()

    def forward(self, x: Tensor, image: Tensor | None, styles: Tensor) -> tuple[Tensor, Tensor]:
        """From maps [N, in_channels, H, W] and an image to those of this resolution.

        The styles, [N, layers + 1, style_size], are those of the layers and of the RGB output.
        """
        *each, last = styles.unbind(1)
        for layer, w in zip(self.layers, each, strict=True):
            x = layer(x, w)
        rgb = self.to_rgb(x, last) + self.rgb_bias
        return x, rgb if image is None else rgb + self.lowpass.up(image)


class SynthesisLayer(nn.Module):
    """Modulated convolution, demodulation or norm, noise input, bias and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        style_size: int,
        norm: str,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(
            in_channels, out_channels, 3, style_size, up, demodulate=norm == NO_NORM
        )
        self.norm = norm_layer(norm, out_channels, affine=False)
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer('noise', torch.randn(1, 1, size, size))
        self.bias = nn.Parameter(torch.zeros(out_channels, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """From [N, in_channels, H, W] to [N, out_channels, size, size]."""
        y = self.norm(self.conv(x, w))
        noise = self.noise
        if self.training:
            noise = torch.randn(len(y), 1, *y.shape[2:], device=y.device, dtype=y.dtype)
        return scaled_leaky_relu(y + self.strength * noise + self.bias)


@MODELS.register_module()
class StyleGAN2Discriminator(nn.Module):
    """Residual blocks and the minibatch standard deviation, of groups of four images.

    A batch that four does not divide has groups of 3, 2 or 1.

    Args:
        image_size: S: 32, 64 or 128.
        base_channels: Channels at full size, doubled at each downsampling.
        max_channels: Limit of that.
        num_classes: 0 is unconditional; otherwise the logit is that of the label.

    Raises:
        UserError: Unsupported image size, or missing labels.
    """

    def __init__(
        self,
        image_size: int = 64,
        base_channels: int = 64,
        max_channels: int = 512,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        widths = channel_widths(image_size, base_channels, max_channels)[::-1]
        self.from_rgb = EqualConv(3, widths[0], 1)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(before, after) for before, after in pairwise(widths)
        )
        self.conv = EqualConv(widths[-1] + 1, widths[-1], 3, padding=1)
        self.linear = EqualLinear(widths[-1] * 4 * 4, widths[-1])
        self.logits = EqualLinear(widths[-1], max(num_classes, 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """From images [N, 3, S, S] and labels [N] to logits [N]."""
        x = scaled_leaky_relu(self.from_rgb(images))
        for block in self.blocks:
            x = block(x)
        x = scaled_leaky_relu(self.conv(torch.cat([x, minibatch_stddev(x)], dim=1)))
        return select_class(self.logits(scaled_leaky_relu(self.linear(x.flatten(1)))), labels)


class DiscriminatorBlock(nn.Module):
    """Residual block, downsampled by its second convolution behind a low-pass filter."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(in_channels, in_channels, 3, padding=1)
        self.conv2 = EqualConv(in_channels, out_channels, 3, stride=2)
        self.shortcut = EqualConv(in_channels, out_channels, 1, bias=False)
        self.lowpass = Lowpass()

    def forward(self, x: Tensor) -> Tensor:
        """From [N, in_channels, H, W] to [N, out_channels, H / 2, W / 2]."""
        y = self.lowpass(scaled_leaky_relu(self.conv1(x)), padding=2)
        y = scaled_leaky_relu(self.conv2(y))
        return (y + self.shortcut(self.lowpass.down(x))) / math.sqrt(2)


class EqualLinear(nn.Linear):
    """Equalized learning rate: N(0, 1) weights, scaled in use (Karras et al. 2018, 1710.10196).

    Args:
        in_features: Features in.
        out_features: Features out.
        bias: Its initial value.
        lr_mult: Learning rate multiplier.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: float = 0.0, lr_mult: float = 1.0
    ) -> None:
        super().__init__(in_features, out_features)
        self.gain, self.lr_mult = lr_mult / math.sqrt(in_features), lr_mult
        nn.init.normal_(self.weight, 0, 1 / lr_mult)
        nn.init.constant_(self.bias, bias / lr_mult)

    def forward(self, x: Tensor) -> Tensor:
        """From [N, in_features] to [N, out_features]."""
        return F.linear(x, self.weight * self.gain, self.bias * self.lr_mult)


class EqualConv(nn.Conv2d):
    """Convolution with equalized learning rate; the arguments are those of `nn.Conv2d`."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gain = 1 / math.sqrt(self.weight[0].numel())
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        return self._conv_forward(x, self.weight * self.gain, self.bias)


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with gain sqrt(2), which keeps the second moment."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class ModulatedConv(nn.Module):
    """Modulated convolution: its weights [O, I, k, k] are scaled by each sample's style [I].

    Scaling the input by the style and the output by the demodulation is the same, and one
    convolution of the whole batch.

    Args:
        in_channels: Channels in, I.
        out_channels: Channels out, O.
        kernel: Kernel size k.
        style_size: Dimensions of w.
        up: Whether to upsample: a transposed convolution, then a low-pass filter.
        demodulate: Whether to scale the weights of each sample and output channel to norm one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        style_size: int,
        up: bool = False,
        demodulate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.gain = 1 / math.sqrt(self.weight[0].numel())
        self.style = EqualLinear(style_size, in_channels, bias=1.0)
        self.lowpass = Lowpass() if up else None
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """From [N, I, H, W] and w [N, style_size] to [N, O, H, W], or [N, O, 2 H, 2 W]."""
        scale, weight = self.style(w), self.weight * self.gain
        x = x * scale[:, :, None, None]
        if self.lowpass is None:
            y = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        else:
            y = F.conv_transpose2d(x, 4 * weight.transpose(0, 1), stride=2)
            y = self.lowpass(y, padding=1)
        if not self.demodulate:
            return y
        squares = scale.square() @ weight.square().sum((2, 3)).T
        return y * (squares + 1e-8).rsqrt()[:, :, None, None]


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale vectors [N, C] to a second moment of one."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def minibatch_stddev(x: Tensor) -> Tensor:
    """Minibatch standard deviation: over a group of x [N, C, H, W], averaged, as [N, 1, H, W]."""
    n, _, h, w = x.shape
    group = next(size for size in range(STDDEV_GROUP_SIZE, 0, -1) if n % size == 0)
    variance = x.unflatten(0, (group, -1)).var(0, correction=0)
    std = (variance + 1e-8).sqrt().mean((1, 2, 3))
    return std.repeat(group)[:, None, None, None].expand(n, 1, h, w)
