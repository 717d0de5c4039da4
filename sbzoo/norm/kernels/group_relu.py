"""Group norm fused with a ReLU: torch's kernel forward, one buffer less backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sbzoo.norm.kernels import native


def group_norm_relu(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """`relu(group_norm(x))` for images [N, C, H, W] on a CPU."""
    return _GroupNormReLU.apply(x, groups, weight, bias, eps)


class _GroupNormReLU(torch.autograd.Function):
    """The gradient of the ReLU becomes that of x in place, by two sums over the pixels."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        n, c, h, w = x.shape
        x = native.dense(x)
        y, *statistics = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        y.relu_()
        ctx.save_for_backward(x, y, weight, bias)
        ctx.groups, ctx.eps, ctx.statistics = groups, eps, statistics
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, y, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody takes a second derivative
            again = F.group_norm(x, ctx.groups, weight, bias, ctx.eps).relu()
            inputs = [t for t in (x, weight, bias) if t is not None]
            d_x, *d_affine = torch.autograd.grad(again, inputs, grad, create_graph=True)
            return d_x, None, *(d_affine or (None, None)), None
        mean, inverse = (_by_channel(t, x) for t in ctx.statistics)
        own, _, _ = native.masked(native.like(x, grad), y)
        dot, total = native.products(own, x, mean)
        scale = inverse if weight is None else inverse * weight
        b = -_group_mean(dot * scale, ctx.groups, x) * inverse.square()
        c = -_group_mean(total * scale, ctx.groups, x) - b * mean
        d_x = native.blend(own, x, scale, b, c, out=own)
        affine = (None, None) if weight is None else ((dot * inverse).sum(0), total.sum(0))
        return d_x, None, *affine, None


def _by_channel(table: Tensor, x: Tensor) -> Tensor:
    """From [N, groups] to [N, C], at least in float32."""
    wide = table.to(torch.promote_types(x.dtype, torch.float32))
    return wide.repeat_interleave(x.shape[1] // table.shape[1], 1)


def _group_mean(table: Tensor, groups: int, x: Tensor) -> Tensor:
    """Sums over the channels of each group [N, C], for each of its native."""
    sums = table.unflatten(1, (groups, -1)).sum(2)
    return _by_channel(sums, x) / (x[0].numel() // groups)
