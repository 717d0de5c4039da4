"""From a table of moments to normalised images, and the way back through both."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sbzoo.norm.kernels import native as pixels
from sbzoo.norm.kernels import reference as formulas
from sbzoo.norm.kernels.dispatch import proven
from sbzoo.norm.moments import Table

if TYPE_CHECKING:
    from sbzoo.norm.layers import Norm


def normalize(
    x: Tensor, layer: Norm, weight: Tensor | None, bias: Tensor | None, relu: bool = False
) -> Tensor:
    """Normalise x [N, C, H, W] by the statistics that a layer's pool makes of its moments.

    Autograd takes gradients through the pool, on tables [N, C]; the functions before and behind it
    touch pixels. As d mean = d x / count and d var = 2 (x - mean) d x / count, what reaches x
    through its moments and what reaches it directly is one pass, over which the first of the two
    functions presides.

    Args:
        x: Images.
        layer: Has the pool, `eps` and what the pool learns.
        weight: Scale of each channel [C], or None.
        bias: Shift of each channel [C], or None.
        relu: Whether a ReLU follows, in the same pass.

    Returns:
        A tensor like x, with the exact gradient, through the statistics too.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling:
        x = pixels.dense(x)
        mean, var, direct = _Moments.apply(x)
    else:
        mean, var = formulas.moments(x)
    pooled = layer.pool(Table(mean, var, x.shape[2] * x.shape[3]), layer)
    centre = mean.detach()  # y is the same for any, and rounds least for this
    scale, offset = _coefficients(pooled, layer.eps, weight, bias, centre)
    if compiling:
        return formulas.affine(x, scale, offset - centre * scale, relu)
    return _Affine.apply(x, direct, centre, scale, offset, relu)


def normalized_again(y: Tensor) -> Callable[[Tensor], Tensor]:
    """What `normalize` has done to make `y`, by the statistics that it took then."""
    passes, scale, shift, relu = (
        getattr(y.grad_fn, n) for n in ('passes', 'scale', 'shift', 'relu')
    )
    return lambda x: passes.affine(pixels.dense(x), scale, shift, relu)


def normalize_fixed(x: Tensor, layer: Norm, statistics: Table) -> Tensor:
    """Normalise x by statistics [1, C] that do not depend on it.

    With a weight that does not learn, nothing of x is kept for backward.
    """
    scale, shift = _coefficients(statistics, layer.eps, layer.weight, layer.bias)
    y = x.mul(scale[:, :, None, None].to(x.dtype)).add_(shift[:, :, None, None].to(x.dtype))
    return y.relu_() if layer.relu else y


def _coefficients(
    pooled: Table,
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


def _passes(x: Tensor) -> ModuleType:
    """Who goes over the pixels: Triton's kernels where they are proven right, else torch's."""
    if not x.numel():
        return formulas
    if x.is_cuda and proven(x.device, x.dtype, pixels.memory_format(x)):
        from sbzoo.norm.kernels import triton as pixels_triton

        return pixels_triton
    return pixels


class _Moments(torch.autograd.Function):
    """Mean and variance of each map; and a stand-in for x, whose gradient is what `_Affine` got.

    The stand-in has the shape of x and no memory of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _passes(x).moments(x)
        ctx.save_for_backward(x, mean)
        ctx.set_materialize_grads(False)
        return mean, var, x.new_empty(()).expand_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor:
        x, mean = ctx.saved_tensors
        d_mean, d_var = (torch.zeros_like(mean) if g is None else g for g in grads[:2])
        share = 1 / (x.shape[2] * x.shape[3])
        b = d_var * (2 * share)
        c = torch.addcmul(d_mean * share, b, mean, value=-1)
        if grads[2] is None:  # x is reached through its moments alone: a second derivative
            return formulas.affine(x, b, c)
        (passes, scale, y, own), ctx.affine = ctx.affine, None
        return passes.blend(grads[2], x, scale, b, c, y, own)


class _Affine(torch.autograd.Function):
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
    ) -> Tensor:
        ctx.moments, ctx.passes, ctx.relu = direct.grad_fn, _passes(x), relu
        ctx.scale = scale.expand_as(centre).contiguous()
        ctx.shift = torch.addcmul(offset, centre, scale, value=-1)
        y = ctx.passes.affine(x, ctx.scale, ctx.shift, relu)
        ctx.save_for_backward(x, y if relu else None, centre, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, y, centre, scale = ctx.saved_tensors
        second = torch.is_grad_enabled()  # somebody takes a second derivative
        passes = formulas if second else ctx.passes
        grad, y, own = passes.masked(pixels.like(x, grad), y)
        dot, total = passes.products(grad, x, centre, y)
        if ctx.moments is not None:
            ctx.moments.affine = passes, scale if second else ctx.scale, y, own
        return None, grad, None, dot.sum_to_size(scale.shape), total, None
