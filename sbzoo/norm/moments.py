"""The table of moments that every norm is a function of, and how its entries are averaged."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Table(NamedTuple):
    """Mean and biased variance, [N, C] or broadcastable to it, over `count` pixels each."""

    mean: Tensor
    var: Tensor
    count: int


def average(table: Table, dim: int) -> Table:
    """Pool along `dim` (kept) by the law of total variance, in its centred form."""
    mean, var = _Average.apply(table.mean, table.var, dim)
    return Table(mean, var, table.count * table.mean.shape[dim])


class _Average(torch.autograd.Function):
    """Autograd could do it from `forward`, in three times the operations."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, variances: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        mean = means.mean(dim, keepdim=True)
        gap = means - mean
        ctx.dim = dim
        ctx.save_for_backward(means, mean)
        return mean, torch.addcmul(variances, gap, gap).mean(dim, keepdim=True)

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor, d_var: Tensor) -> tuple[Tensor, Tensor, None]:
        means, mean = ctx.saved_tensors
        share = 1 / means.shape[ctx.dim]
        d_var = d_var * share
        d_means = torch.addcmul(d_mean * share, means - mean, d_var, value=2)
        return d_means, d_var.expand_as(means), None


def by_groups(table: Table, groups: int) -> Table:
    """Pool over the channels of each group; the result is [N, C] again."""
    split = [t.unflatten(1, (groups, -1)) for t in table[:2]]
    pooled = average(Table(*split, table.count), dim=2)
    mean, var = (t.expand_as(split[0]).flatten(1) for t in pooled[:2])
    return Table(mean, var, pooled.count)


def uncentred(table: Table) -> Table:
    """The same pixels by their second moment about zero, in the place of the variance."""
    mean, var, count = table
    return Table(torch.zeros_like(mean), var + mean.square(), count)
