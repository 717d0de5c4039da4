"""Moments per sample and channel, and how they are pooled: the law of total variance."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sbzoo.norm.transforms import in_plain_torch


class Moments(NamedTuple):
    """Mean and biased variance, [N, C] or broadcastable to it, over `count` pixels each.

    Where samples are pictures of different sizes, the count is a tensor [N, 1] on the CPU.
    """

    mean: Tensor
    var: Tensor
    count: int | Tensor


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def along_channels(table: Tensor, x: Tensor) -> Tensor:
    """A table [C], to broadcast over maps x [N, C, *]."""
    return table.view(-1, *[1] * (x.ndim - 2))


def average(moments: Moments, dim: int) -> Moments:
    """Pool along `dim` (kept) by the law of total variance, in its centred form."""
    mean, var, count = moments
    if dim == 0 and isinstance(count, Tensor):
        return _weighted_average(mean, var, count)
    pool = _average if in_plain_torch() else _Average.apply
    return Moments(*pool(mean, var, dim), count * mean.shape[dim])


def _weighted_average(means: Tensor, variances: Tensor, counts: Tensor) -> Moments:
    """Pool samples, each by its pixels."""
    total = counts.sum()
    shares = (counts / total).to(means)
    mean = (means * shares).sum(0, keepdim=True)
    var = ((variances + (means - mean).square()) * shares).sum(0, keepdim=True)
    return Moments(mean, var, total if in_plain_torch() else int(total))


def split(moments: Moments, samples: int) -> list[Moments]:
    """Those of so many samples each, the last perhaps of fewer."""
    parts = list(zip(*(t.split(samples) for t in moments[:2]), strict=True))
    counts = moments.count
    counts = counts.split(samples) if isinstance(counts, Tensor) else [counts] * len(parts)
    return [Moments(*part, count) for part, count in zip(parts, counts, strict=True)]


def _average(means: Tensor, variances: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    mean = means.mean(dim, keepdim=True)
    gap = means - mean
    return mean, torch.addcmul(variances, gap, gap).mean(dim, keepdim=True)


class _Average(torch.autograd.Function):
    """Autograd could do it from `_average`, in three times the operations."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, variances: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        mean, var = _average(means, variances, dim)
        ctx.dim = dim
        ctx.save_for_backward(means, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor, d_var: Tensor) -> tuple[Tensor, Tensor, None]:
        means, mean = ctx.saved_tensors
        share = 1 / means.shape[ctx.dim]
        d_var = d_var * share
        d_means = torch.addcmul(d_mean * share, means - mean, d_var, value=2)
        return d_means, d_var.expand_as(means), None


def by_groups(moments: Moments, groups: int) -> Moments:
    """Pool over the channels of each group; the result is [N, C] again."""
    split = [t.unflatten(1, (groups, -1)) for t in moments[:2]]
    pooled = average(Moments(*split, moments.count), dim=2)
    mean, var = (t.expand_as(split[0]).flatten(1) for t in pooled[:2])
    return Moments(mean, var, pooled.count)


def uncentred(moments: Moments) -> Moments:
    """The same pixels by their second moment about zero, in the place of the variance."""
    mean, var, count = moments
    return Moments(torch.zeros_like(mean), var + mean.square(), count)
