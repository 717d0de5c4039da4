"""Pools: which entries of the table of moments are averaged into the statistics of a norm.

A pool is called with the `Table` of a batch and the layer it works for, and returns the table
to normalise with, broadcastable to [N, C].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sbzoo.norm.moments import Table

if TYPE_CHECKING:
    from sbzoo.norm.layers import Norm


class Pool(Protocol):
    """What every pool is."""

    uses_batch: bool  # whether samples of a batch share statistics

    def __call__(self, table: Table, layer: Norm) -> Table:
        """The table to normalise with."""


def average(table: Table, dim: int) -> Table:
    """Pool along `dim` (kept) by the law of total variance, in its centred form."""
    mean = table.mean.mean(dim, keepdim=True)
    var = (table.var + (table.mean - mean).square()).mean(dim, keepdim=True)
    return Table(mean, var, table.count * table.mean.shape[dim])


@dataclass(frozen=True)
class Group:
    """Each sample by itself, over groups of channels.

    Group norm (Wu and He 2018, arXiv 1803.08494). One group is layer norm over C, H and W
    (Ba et al. 2016, arXiv 1607.06450), as many groups as channels instance norm (Ulyanov et
    al. 2016, arXiv 1607.08022).
    """

    groups: int
    uses_batch = False

    def __call__(self, table: Table, layer: Norm) -> Table:
        if self.groups == 1:
            return average(table, dim=1)
        split = [t.unflatten(1, (self.groups, -1)) for t in (table.mean, table.var)]
        pooled = average(Table(*split, table.count), dim=2)
        mean, var = (t.expand_as(split[0]).flatten(1) for t in pooled[:2])
        return Table(mean, var, pooled.count)


@dataclass(frozen=True)
class Batch:
    """All samples together, each channel by itself; in evaluation the running statistics.

    Batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167).
    """

    uses_batch = True

    def __call__(self, table: Table, layer: Norm) -> Table:
        if not layer.training:
            return Table(layer.running_mean[None], layer.running_var[None], table.count)
        pooled = average(table, dim=0)
        layer.track(pooled)
        return pooled


@dataclass(frozen=True)
class Mix:
    """A fraction alpha of the mean and of the variance from `first`, the rest from `second`."""

    first: Pool
    second: Pool

    @property
    def uses_batch(self) -> bool:
        """Whether either part does."""
        return self.first.uses_batch or self.second.uses_batch

    def __call__(self, table: Table, layer: Norm) -> Table:
        first, second = self.first(table, layer), self.second(table, layer)
        alpha = layer.alpha
        mean = second.mean.lerp(first.mean, alpha)
        return Table(mean, second.var.lerp(first.var, alpha), table.count)
