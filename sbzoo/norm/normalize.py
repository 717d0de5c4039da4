"""From a table of moments to normalised images, and the way back through both."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sbzoo.norm import pixels
from sbzoo.norm.proof import proven
from sbzoo.norm.table import Table

if TYPE_CHECKING:
    from sbzoo.norm.layers import Norm


def normalize(
    x: Tensor, layer: Norm, weight: Tensor | None, bias: Tensor | None, relu: bool = False
) -> Tensor:
    """Normalise x [N, C, H, W] by the statistics that a layer's pool makes of its moments.

    Args:
        x: Images.
        layer: Has the pool, `eps` and what the pool learns.
        weight: Scale of each channel [C], or None.
        bias: Shift of each channel [C], or None.
        relu: Whether a ReLU follows, in the same pass.

    Returns:
        A tensor like x, with the exact gradient, through the statistics too.
    """
    if torch.compiler.is_compiling():
        return _formula(x, layer, weight, bias, relu)
    return _Normalize.apply(x, layer, weight, bias, relu, *layer.learned())


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
    _, scale, shift = _coefficients(statistics, layer.eps, layer.weight, layer.bias)
    y = x.mul(_maps(scale).to(x.dtype)).add_(_maps(shift).to(x.dtype))
    return y.relu_() if layer.relu else y


def _formula(
    x: Tensor, layer: Norm, weight: Tensor | None, bias: Tensor | None, relu: bool
) -> Tensor:
    """The same in plain torch: for the compiler, which fuses it, and for second derivatives."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, (2, 3), correction=0)
    pooled = layer.pool(Table(mean, var, x[0, 0].numel()), layer)
    _, scale, shift = _coefficients(pooled, layer.eps, weight, bias)
    y = (wide * _maps(scale) + _maps(shift)).to(x.dtype)
    return y.relu() if relu else y


def _coefficients(
    pooled: Table, eps: float, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse deviation, scale and shift, [N, C] or broadcastable to it."""
    inverse = (pooled.var + eps).rsqrt()
    scale = inverse if weight is None else inverse * weight
    shift = -pooled.mean * scale
    return inverse, scale, shift if bias is None else shift + bias


def _maps(table: Tensor) -> Tensor:
    """From [N, C] to [N, C, 1, 1]."""
    return table[:, :, None, None]


def _passes(x: Tensor) -> ModuleType:
    """Who goes over the pixels: Triton's kernels where they are proven right, else torch's."""
    if x.is_cuda and proven(x.device, x.dtype, pixels.memory_format(x)):
        from sbzoo.norm import pixels_triton

        return pixels_triton
    return pixels


class _Normalize(torch.autograd.Function):
    """y = (x - M) S weight + bias, with pooled statistics M and S = (V + eps)^-1/2.

    The gradients of M and V follow from two sums over pixels; autograd takes them through the
    pool to the moments of x; and as d mean = d x / count and d var = 2 (x - mean) d x / count,
    they reach x in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layer: Norm,
        weight: Tensor | None,
        bias: Tensor | None,
        relu: bool,
        *learned: Tensor,
    ) -> Tensor:
        x = pixels.dense(x)
        passes = _passes(x)
        mean, var = (t.requires_grad_() for t in passes.moments(x))
        ctx.table = Table(mean, var, x[0, 0].numel())
        with torch.enable_grad():
            ctx.pooled = layer.pool(ctx.table, layer)
        ctx.inverse, scale, shift = _coefficients(ctx.pooled, layer.eps, weight, bias)
        ctx.scale, ctx.shift = (t.expand_as(mean).contiguous() for t in (scale, shift))
        y = passes.affine(x, ctx.scale, ctx.shift, relu)
        ctx.save_for_backward(x, y if relu else None, weight, bias, *learned)
        ctx.layer, ctx.passes, ctx.relu = layer, passes, relu
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, y, weight, bias, *learned = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody takes a second derivative
            return _backward_with_graph(ctx, grad)
        mean, _, count = ctx.table
        grad, y, own = ctx.passes.masked(pixels.like(x, grad), y)
        dot, total = ctx.passes.products(grad, x, mean, y)
        dot += (mean - ctx.pooled.mean) * total  # now the sum of grad * (x - M)
        d_mean, d_var, *d_learned = _through_pool(ctx, dot, total, learned)
        b = d_var * (2 / count)
        d_x = ctx.passes.blend(grad, x, ctx.scale, b, d_mean / count - b * mean, y, own)
        d_weight = None if weight is None else (dot * ctx.inverse).sum(0)
        d_bias = None if bias is None else total.sum(0)
        return d_x, None, d_weight, d_bias, None, *d_learned


def _through_pool(ctx: Any, dot: Tensor, total: Tensor, learned: list[Tensor]) -> list[Tensor]:
    """Gradients of the moments of x, and of what the pool learns."""
    grads = -ctx.scale * total, -0.5 * dot * ctx.scale * ctx.inverse.square()
    pairs = [
        (statistic, g.sum_to_size(statistic.shape))
        for statistic, g in zip(ctx.pooled[:2], grads, strict=True)
        if statistic.requires_grad
    ]
    return _gradients(*zip(*pairs, strict=True), [*ctx.table[:2], *learned], retain_graph=True)


def _backward_with_graph(ctx: Any, grad: Tensor) -> tuple:
    x, _, weight, bias, *learned = ctx.saved_tensors
    with ctx.layer.untracked():
        y = _formula(x, ctx.layer, weight, bias, ctx.relu)
    inputs = [x, weight, bias, *learned]
    d_x, d_weight, d_bias, *rest = _gradients([y], [grad], inputs, create_graph=True)
    return d_x, None, d_weight, d_bias, None, *rest


def _gradients(
    outputs: list[Tensor], grads: list[Tensor], inputs: list[Tensor | None], **kwargs
) -> list[Tensor | None]:
    """As `torch.autograd.grad`, with None for inputs that want no gradient."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grads, materialize_grads=True, **kwargs))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]
