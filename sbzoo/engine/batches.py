"""A few training batches for something else than training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import ceil
from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader


def some_batches(loader: DataLoader, images: int, seed: int) -> Iterator[Any]:
    """Batches of `images` images over all devices, drawn by `seed`, of the size `loader` has.

    The loader itself and its sampler are left where they are.
    """
    dataset, batch = loader.dataset, loader.batch_size or loader.batch_sampler.batch_size
    own = DataLoader(
        dataset,
        batch_size=batch,
        sampler=DefaultSampler(dataset, shuffle=True, seed=seed),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )
    return islice(own, ceil(images / (batch * get_world_size())))
