"""Normalization by pooled moments: moments -> pool -> affine, with exact gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sbzoo.norm.kernels import native, reference
from sbzoo.norm.kernels.dispatch import kernels_for
from sbzoo.norm.moments import Moments
from sbzoo.norm.padding import Pictures, Size, crops, num_pixels, without_padding, zero
from sbzoo.norm.transforms import in_plain_torch

Tables = tuple[Tensor, Tensor]  # [N, C] each


def normalize(
    x: Tensor,
    pool: Callable[[Moments], Moments],
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    relu: bool = False,
    pictures: Pictures | None = None,
) -> Tensor:
    """Normalise x [N, C, H, W] by the statistics that a pool makes of its moments.

    Autograd differentiates the pool, on tensors [N, C]; two functions of its own touch pixels. As
    d mean = d x / count and d var = 2 (x - mean) d x / count, the gradient of x through its
    moments and the direct one are a single pass, made in the backward of the moments.

    Args:
        x: Images.
        pool: From the moments of x, [N, C], to statistics broadcastable to [N, C].
        eps: Added to the variance.
        weight: Scale of each channel [C], or None.
        bias: Shift of each channel [C], or None.
        relu: Whether a ReLU follows, in the same pass.
        pictures: What in x is picture; nothing else is averaged, and it becomes zero.

    Returns:
        A tensor like x, with the exact gradient, through the statistics too.
    """
    if in_plain_torch():
        return _in_plain_torch(x, pool, eps, weight, bias, relu, pictures)
    x, sizes = native.dense(x), pictures and pictures.on(x)
    mean, var, direct = _TakeMoments.apply(x, sizes)
    pooled = pool(Moments(mean, var, num_pixels(x, sizes)))
    centre = mean.detach()  # y is the same for any, and rounds least for this
    scale, offset = _coefficients(pooled, eps, weight, bias, centre)
    return _ApplyAffine.apply(x, direct, centre, scale, offset, relu, sizes)


def _in_plain_torch(
    x: Tensor,
    pool: Callable[[Moments], Moments],
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    relu: bool,
    pictures: Pictures | None,
) -> Tensor:
    """As `normalize`."""
    mask = None if pictures is None else pictures.mask(x)
    mean, var, count = reference.moments_within(x, mask)
    centre = mean.detach()
    scale, offset = _coefficients(pool(Moments(mean, var, count)), eps, weight, bias, centre)
    y = reference.affine(x, scale, offset - centre * scale, relu)
    return y if mask is None else y * mask


def normalize_fixed(
    x: Tensor,
    statistics: Moments,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    relu: bool = False,
    pictures: Pictures | None = None,
) -> Tensor:
    """Normalise x by statistics [1, C] that do not depend on it.

    With a weight that does not learn, nothing of x is kept for backward.
    """
    scale, shift = _coefficients(statistics, eps, weight, bias)
    y = x.mul(scale[:, :, None, None].to(x.dtype)).add_(shift[:, :, None, None].to(x.dtype))
    y = without_padding(y, pictures)
    return y.relu_() if relu else y


def recomputation(y: Tensor) -> Callable[[Tensor], Tensor]:
    """What `normalize` has done to make `y`, by the statistics that it took then."""
    node = y.grad_fn
    kernels, affine, sizes = node.kernels, (node.scale, node.shift, node.relu), node.sizes
    return lambda x: zero(kernels.affine(native.dense(x), *affine), sizes)


def _coefficients(
    pooled: Moments,
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
    centre: Tensor | float = 0,
) -> tuple[Tensor, Tensor]:
    """`scale` and `offset` of y = (x - centre) * scale + offset, broadcastable to [N, C]."""
    inverse = (pooled.var + eps).rsqrt()
    scale = inverse if weight is None else inverse * weight
    gap = centre - pooled.mean
    return scale, gap * scale if bias is None else torch.addcmul(bias, gap, scale)


class _TakeMoments(torch.autograd.Function):
    """Mean and variance of each map; and a stand-in for x that gets the gradient of `_ApplyAffine`.

    The stand-in has the shape of x and no memory of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[Size] | None) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _of_pictures(kernels_for(x).moments, sizes, x)
        ctx.save_for_backward(x, mean)
        ctx.set_materialize_grads(False)
        ctx.sizes = sizes
        return mean, var, x.new_empty(()).expand_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None]:
        x, mean = ctx.saved_tensors
        d_mean, d_var = (torch.zeros_like(mean) if g is None else g for g in grads[:2])
        share = 1 / num_pixels(x, ctx.sizes)
        share = share.to(mean) if isinstance(share, Tensor) else share
        b = d_var * (2 * share)
        c = torch.addcmul(d_mean * share, b, mean, value=-1)
        if grads[2] is None:  # x is reached through its moments alone: a second derivative
            return zero(reference.affine(x, b, c), ctx.sizes), None
        (kernels, scale, y, own), ctx.affine = ctx.affine, None
        return zero(kernels.blend(grads[2], x, scale, b, c, y, own), ctx.sizes), None


def _of_pictures(
    kernel: Callable[..., Tables], sizes: list[Size] | None, *arguments: Tensor | None
) -> Tables:
    """What a kernel takes of maps [N, C, H, W] and tables [N, C], of the pictures alone."""
    if sizes is None:
        return kernel(*arguments)
    pictures = zip(*(_by_picture(tensor, sizes) for tensor in arguments), strict=True)
    tables = zip(*(kernel(*picture) for picture in pictures), strict=True)
    return tuple(map(torch.cat, tables))


def _by_picture(tensor: Tensor | None, sizes: list[Size]) -> Sequence[Tensor | None]:
    """Maps [N, C, H, W] or a table [N, C], one for each picture."""
    if tensor is None:
        return [None] * len(sizes)
    return crops(tensor, sizes) if tensor.ndim == 4 else tensor.split(1)


class _ApplyAffine(torch.autograd.Function):
    """y = (x - centre) * scale + offset; `direct` stands for x where gradients go."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        direct: Tensor,
        centre: Tensor,
        scale: Tensor,
        offset: Tensor,
        relu: bool,
        sizes: list[Size] | None,
    ) -> Tensor:
        ctx.moments, ctx.kernels, ctx.relu = direct.grad_fn, kernels_for(x), relu
        ctx.sizes = sizes
        ctx.scale = scale.expand_as(centre).contiguous()
        ctx.shift = torch.addcmul(offset, centre, scale, value=-1)
        y = zero(ctx.kernels.affine(x, ctx.scale, ctx.shift, relu), sizes)
        ctx.save_for_backward(x, y if relu else None, centre, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, y, centre, scale = ctx.saved_tensors
        second = torch.is_grad_enabled()  # somebody takes a second derivative
        kernels = reference if second else ctx.kernels
        grad, y, own = kernels.masked(native.like(x, grad), y)
        dot, total = _of_pictures(kernels.products, ctx.sizes, grad, x, centre, y)
        if ctx.moments is not None:
            ctx.moments.affine = kernels, scale if second else ctx.scale, y, own
        return None, grad, None, dot.sum_to_size(scale.shape), total, None, None
