"""Gradient accumulation: an iteration of the Runner is one update, of several micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import ceil
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sbzoo.engine.loss_normalizers import NORMALIZERS
from sbzoo.engine.optim import wrappers_in
from sbzoo.engine.options.parts import wrappers_of
from sbzoo.engine.runner import Window, unwrapped
from sbzoo.errors import UserError, choose
from sbzoo.gan.models.base import AdversarialModel, mean


class Windows:
    """The windows of a data loader: as long as its epoch has updates, otherwise the loader."""

    def __init__(self, loader: DataLoader, size: int) -> None:
        vars(self).update(loader=loader, size=size)

    def __len__(self) -> int:
        return ceil(len(self.loader) / self.size)

    def __iter__(self) -> Iterator[Window]:
        """Of `size` micro-batches each; the last of an epoch has those that are left."""
        batches = iter(self.loader)
        while window := Window(islice(batches, self.size)):
            yield window

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.loader, name, value)


class EndlessWindows:
    """Windows that go on from one epoch of a data loader to the next."""

    def __init__(self, loader: DataLoader, size: int) -> None:
        self.batches, self.size = _InfiniteDataloaderIterator(loader), size

    def __next__(self) -> Window:
        return Window(next(self.batches) for _ in range(self.size))

    def skip_iter(self, windows: int) -> None:
        """What was trained on before a run was stopped."""
        self.batches.skip_iter(windows * self.size)


class AccumulatingLoop:
    """Makes an iteration of a training loop one update, of `accumulative_counts` micro-batches.

    So hooks, schedules, warm-up and moving averages count updates. The last window of an epoch is
    smaller if the micro-batches do not fill it, as is the last batch of a data loader.

    Args:
        runner: mmengine's.
        dataloader: Of micro-batches, or its config.
        loss_normalizer: A key of `NORMALIZERS`: what a detector's losses are divided by.
        options: Of the loop of mmengine.

    Raises:
        UserError: The networks of a GAN accumulate over different numbers.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        loss_normalizer: str = 'window',
        **options: Any,
    ) -> None:
        if isinstance(dataloader, dict):
            by_rank = runner._randomness_cfg.get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(dataloader, runner.seed, by_rank)
        self.size = accumulated(runner.optim_wrapper)
        super().__init__(runner, Windows(dataloader, self.size), **options)
        kind = choose('loss_normalizer', loss_normalizer, NORMALIZERS)
        self.normalizer = kind(unwrapped(runner))

    def run_update(self, index: int, window: Window) -> None:
        """One iteration. Hooks get the window, or its only micro-batch as it is."""
        batch = window[0] if len(window) == 1 else window
        self.runner.call_hook('before_train_iter', batch_idx=index, data_batch=batch)
        outputs = self._train(window)
        self.runner.call_hook(
            'after_train_iter', batch_idx=index, data_batch=batch, outputs=outputs
        )
        self._iter += 1

    def _train(self, window: Window) -> dict[str, Tensor]:
        model, wrapper = self.runner.model, self.runner.optim_wrapper
        for each in wrappers_in(wrapper):
            each.initialize_count_status(nn.Identity(), 0, len(window))
        if isinstance(unwrapped(self.runner), AdversarialModel):
            return model.train_step(window, optim_wrapper=wrapper)
        with self.normalizer.over(window, wrapper):
            return mean([model.train_step(batch, optim_wrapper=wrapper) for batch in window])


def accumulated(wrapper: OptimWrapper | OptimWrapperDict | dict) -> int:
    """Micro-batches of an update."""
    if isinstance(wrapper, dict):
        counts = {part.get('accumulative_counts', 1) for part in wrappers_of(wrapper)}
    else:
        counts = {part._accumulative_counts for part in wrappers_in(wrapper)}
    if len(counts) > 1:
        raise UserError(f'accumulative_counts: one number for all networks, not {sorted(counts)}')
    return counts.pop()


@LOOPS.register_module()
class AccumulatingEpochLoop(AccumulatingLoop, EpochBasedTrainLoop):
    """mmengine's `EpochBasedTrainLoop`, an iteration of which is one update."""

    def run_iter(self, idx: int, data_batch: Window) -> None:
        """One update."""
        self.run_update(idx, data_batch)


@LOOPS.register_module()
class AccumulatingIterLoop(AccumulatingLoop, IterBasedTrainLoop):
    """mmengine's `IterBasedTrainLoop`, an iteration of which is one update."""

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **options: Any) -> None:
        super().__init__(runner, dataloader, **options)
        self.dataloader_iterator = EndlessWindows(self.dataloader.loader, self.size)

    def run_iter(self, data_batch: Window) -> None:
        """One update."""
        self.run_update(self._iter, data_batch)
