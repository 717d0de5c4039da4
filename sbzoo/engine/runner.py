"""What hooks and tools take from a run without disturbing it: its model, batches, randomness."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from sbzoo.gan.models.base import without_wrapper


def unwrapped(runner: Runner) -> nn.Module:
    """The model of a run, out of the wrapper that distributed training puts around it."""
    return without_wrapper(runner.model)


class Window(list):
    """The micro-batches of an update, as an iteration gives them to hooks if there are several."""


def micro_batches(data_batch: Any) -> list[Any]:
    """What hooks are given of an iteration, which is a batch or a window."""
    return data_batch if isinstance(data_batch, Window) else [data_batch]


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


@contextmanager
def random_state_kept() -> Iterator[None]:
    """What is drawn inside is drawn again outside, by Python, NumPy and torch."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
