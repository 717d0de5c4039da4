"""Layers of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbzoo.gan.networks.blocks import Lowpass

GROUP = 4  # images that share a standard deviation, at most


class EqualLinear(nn.Linear):
    """Weights of N(0, 1), scaled as they are used, so that all learn alike (arXiv 1710.10196).

    Args:
        before: Features in.
        after: Features out.
        bias: Its first value.
        lr_mult: How fast it learns, against the other layers.
    """

    def __init__(self, before: int, after: int, bias: float = 0.0, lr_mult: float = 1.0) -> None:
        super().__init__(before, after)
        self.gain, self.lr_mult = lr_mult / math.sqrt(before), lr_mult
        nn.init.normal_(self.weight, 0, 1 / lr_mult)
        nn.init.constant_(self.bias, bias / lr_mult)

    def forward(self, x: Tensor) -> Tensor:
        """From [N, before] to [N, after]."""
        return F.linear(x, self.weight * self.gain, self.bias * self.lr_mult)


class EqualConv(nn.Conv2d):
    """As `EqualLinear`; the arguments are those of torch's convolution."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gain = 1 / math.sqrt(self.weight[0].numel())
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As torch's."""
        return self._conv_forward(x, self.weight * self.gain, self.bias)


def activated(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the second moment."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class ModulatedConv(nn.Module):
    """A convolution whose weights [O, I, k, k] are scaled by I factors of each sample's style.

    Scaling the maps before, and those after by the demodulation, is the same as a weight for each
    sample, and one convolution of the whole batch.

    Args:
        before: Channels in, I.
        after: Channels out, O.
        kernel: k.
        style_size: Length of w.
        up: Whether the map is doubled: a transposed convolution and a low pass behind it.
        demodulate: Whether the weights of each sample and O are scaled to a norm of one.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        style_size: int,
        up: bool = False,
        demodulate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.gain = 1 / math.sqrt(self.weight[0].numel())
        self.style = EqualLinear(style_size, before, bias=1.0)
        self.lowpass = Lowpass() if up else None
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """From [N, I, H, W] and w [N, style_size] to [N, O, H, W], or twice the size."""
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


def unit(x: Tensor) -> Tensor:
    """Vectors [N, C] of second moment one."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def deviation(x: Tensor) -> Tensor:
    """Standard deviation over the images of a group, averaged, as a map [N, 1, H, W] of x."""
    n, _, h, w = x.shape
    group = next(size for size in range(GROUP, 0, -1) if n % size == 0)
    variance = x.unflatten(0, (group, -1)).var(0, correction=0)
    std = (variance + 1e-8).sqrt().mean((1, 2, 3))
    return std.repeat(group)[:, None, None, None].expand(n, 1, h, w)
