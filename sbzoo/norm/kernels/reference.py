"""Reference implementation of the passes over pixels, in plain torch.

It defines what `native` and `triton` compute, and runs itself under torch.compile, which fuses it,
and for second derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.norm.moments import wide


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over H and W, tables [N, C]."""
    var, mean = torch.var_mean(wide(x), (2, 3), correction=0)
    return mean, var


def moments_within(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, int | Tensor]:
    """Of the pixels where a mask [N, 1, H, W] is true: `moments`, and their number [N, 1]."""
    if mask is None:
        return *moments(x), x.shape[2:].numel()  # no tensor while torch.jit traces it
    count = mask.sum((2, 3))
    mean = (wide(x) * mask).sum((2, 3)) / count
    gap = (wide(x) - _maps(mean)) * mask
    return mean, gap.square().sum((2, 3)) / count, count


def affine(x: Tensor, scale: Tensor, shift: Tensor, relu: bool = False) -> Tensor:
    """`x * scale + shift`, tables [N, C]; its positive part with `relu`."""
    y = (wide(x) * _maps(scale) + _maps(shift)).to(x.dtype)
    return y.relu() if relu else y


def masked(grad: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
    """As in `sbzoo.norm.kernels.native`; here `products` and `blend` mask what they read."""
    return grad, y, None


def products(
    grad: Tensor, x: Tensor, mean: Tensor, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of `grad * (x - mean)` and of `grad` over H and W, tables [N, C]; `y` as in `masked`."""
    grad = _before_relu(wide(grad), y)
    return (grad * (wide(x) - _maps(mean))).sum((2, 3)), grad.sum((2, 3))


def blend(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    y: Tensor | None = None,
    out: None = None,
) -> Tensor:
    """`a * grad + b * x + c`, tables [N, C]; `y` as in `masked`."""
    grad = _before_relu(wide(grad), y)
    return (_maps(a) * grad + _maps(b) * wide(x) + _maps(c)).to(x.dtype)


def _before_relu(grad: Tensor, y: Tensor | None) -> Tensor:
    return grad if y is None else grad.masked_fill(y <= 0, 0)


def _maps(table: Tensor) -> Tensor:
    """From [N, C] to [N, C, 1, 1]."""
    return table[:, :, None, None]
