"""What a detector's losses are divided by where its batch is split into micro-batches or ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn

from sbzoo.detection.normalizers import Replace, replaced, unsupported
from sbzoo.engine.runner import random_state_kept


class BatchNormalizer:
    """MMDetection's own: each micro-batch is divided by what is in it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @contextmanager
    def over(self, window: list[Any], wrapper: OptimWrapper) -> Iterator[None]:
        """While an update is computed, by one `train_step` for each micro-batch."""
        yield


class WindowNormalizer(BatchNormalizer):
    """That of all micro-batches of an update and all ranks, as if they were one batch.

    The gradient is then that of the whole batch. It costs a forward pass without gradient, of the
    same random numbers, in which the normalisers of the micro-batches are counted; a single
    micro-batch on each rank needs none. A model with a part whose normalisers are not known is
    trained as MMDetection does, which is logged once.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.unknown: list[str] | None = None

    @contextmanager
    def over(self, window: list[Any], wrapper: OptimWrapper) -> Iterator[None]:
        """See `BatchNormalizer`."""
        parts = len(window) * get_world_size()
        if parts == 1 or not self._supported():
            yield
            return
        total = self._counted(window, wrapper) if len(window) > 1 else self._over_ranks
        with replaced(self.model, total, parts):  # as accumulation and ranks average over them
            yield

    def _supported(self) -> bool:
        if self.unknown is None:
            self.unknown = unsupported(self.model)
            if self.unknown:
                print_log(
                    f'each micro-batch has its own loss normaliser, as that of '
                    f'{", ".join(self.unknown)} is not known to be exact over several',
                    logger='current',
                )
        return not self.unknown

    def _counted(self, window: list[Any], wrapper: OptimWrapper) -> Replace:
        """Sums over micro-batches and ranks, from a forward pass that leaves no trace."""
        counts: Counter[str] = Counter()

        def count(name: str, value: float) -> float:
            counts[name] += value
            return value

        with traceless(self.model), replaced(self.model, count), wrapper.optim_context(self.model):
            for batch in window:
                data = self.model.data_preprocessor(deepcopy(batch), True)
                self.model._run_forward(data, mode='loss')
        totals = dict(zip(counts, self._summed(list(counts.values())), strict=True))
        return lambda name, _: totals[name]

    def _over_ranks(self, _name: str, value: float) -> float:
        return self._summed([value])[0]

    def _summed(self, values: list[float]) -> list[float]:
        device = next(self.model.parameters()).device
        found = torch.tensor(values, dtype=torch.float64, device=device)
        all_reduce(found)
        return found.tolist()


@contextmanager
def traceless(model: nn.Module) -> Iterator[None]:
    """No gradients inside; buffers and random numbers are then as they were."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    try:
        with random_state_kept(), torch.no_grad():
            yield
    finally:
        for buffer, old in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(old)


NORMALIZERS = dict(window=WindowNormalizer, batch=BatchNormalizer)
