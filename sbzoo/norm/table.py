"""The table of moments that every norm is a function of, and how its entries are averaged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Table(NamedTuple):
    """Mean and biased variance, [N, C] or broadcastable to it, over `count` pixels each."""

    mean: Tensor
    var: Tensor
    count: int


def average(table: Table, dim: int) -> Table:
    """Pool along `dim` (kept) by the law of total variance, in its centred form."""
    mean = table.mean.mean(dim, keepdim=True)
    var = (table.var + (table.mean - mean).square()).mean(dim, keepdim=True)
    return Table(mean, var, table.count * table.mean.shape[dim])


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
