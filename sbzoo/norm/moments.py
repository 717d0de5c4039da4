"""The only code that touches pixels: a table of moments in, one affine map out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TINY = 1e-12  # keeps the scale of a constant map finite


class Table(NamedTuple):
    """Mean and biased variance per sample and channel, of `count` pixels each."""

    mean: Tensor  # [N, C], or broadcastable to it
    var: Tensor  # like mean
    count: int


def normalize(
    x: Tensor,
    scale_and_shift: Callable[[Table], tuple[Tensor, Tensor]],
    parameters: tuple[Tensor, ...],
) -> Tensor:
    """Apply `(x - mean) * scale + shift`, where `scale_and_shift` sees only the table of x.

    Args:
        x: Images [N, C, H, W].
        scale_and_shift: From the table to a scale and a shift, both [N, C]; a few torch
            operations on tiny tensors, which autograd differentiates.
        parameters: The learnable tensors that `scale_and_shift` uses.

    Returns:
        A tensor like x. Its gradient is the exact one, through the statistics too; it can be
        taken once (no second derivative).
    """
    return _Normalize.apply(x, scale_and_shift, *parameters)


class _Normalize(torch.autograd.Function):
    """One pass to whiten, one in place to map; backward centres x again instead of keeping it.

    Centred pixels are what both passes work on, so that a large offset of x costs no precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale_and_shift: Callable, *parameters: Tensor) -> Tensor:
        whitened, table = _whiten(x)
        table.mean.requires_grad_()
        table.var.requires_grad_()
        with torch.enable_grad():
            scale, shift = scale_and_shift(table)
        ctx.save_for_backward(x)
        ctx.table, ctx.coefficients, ctx.parameters = table, (scale, shift), parameters
        std = (table.var + TINY).sqrt()
        return whitened.mul_(_map(scale * std)).add_(_map(shift)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (x,) = ctx.saved_tensors
        mean, var, count = ctx.table
        scale = ctx.coefficients[0]
        grad = grad.to(mean.dtype)
        centred = x - _map(mean)
        sums = (grad * centred).sum((2, 3)), grad.sum((2, 3))
        wanted = [p for p in ctx.parameters if p.requires_grad]
        d_mean, d_var, *d_wanted = torch.autograd.grad(
            ctx.coefficients, (mean, var, *wanted), sums, retain_graph=True, materialize_grads=True
        )
        d_mean = d_mean - scale * sums[1]  # of the centring itself
        d_x = centred.mul_(_map(d_var * (2 / count))).add_(grad * _map(scale))
        d_x = d_x.add_(_map(d_mean / count)).to(x.dtype)
        d_wanted = iter(d_wanted)
        return d_x, None, *(next(d_wanted) if p.requires_grad else None for p in ctx.parameters)


def _whiten(x: Tensor) -> tuple[Tensor, Table]:
    """Maps of zero mean and unit variance [N, C, H, W], and the table, at least in float32.

    torch.var_mean gives the same table, but its kernel is not vectorised and takes 20 times
    as long on a CPU.
    """
    n, c, h, w = x.shape
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    whitened, mean, rstd = torch.native_group_norm(wide, None, None, n, c, h * w, c, TINY)
    return whitened, Table(mean, (rstd.pow(-2) - TINY).clamp_(min=0), h * w)


def _map(table: Tensor) -> Tensor:
    """From [N, C] to [N, C, 1, 1], outside of the graph."""
    return table.detach()[:, :, None, None]
