"""Precise BN: running statistics of many images, not of the newest few batches."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from sbzoo.engine.runner import random_state_kept, some_batches, unwrapped
from sbzoo.norm import reestimate


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """Re-estimates the running statistics before each validation and each checkpoint of an epoch.

    See `sbzoo.reestimate` (Wu and Johnson 2021, arXiv 2105.07576). Batches are as in training,
    of the same size; training goes on as if nothing had been run in between. Norms in evaluation
    mode (`norm_eval`) keep their statistics; a model without batch norms is left alone. The
    running average of an `EMAHook` gets its buffers from the model, so these too.

    Args:
        num_images: Over all devices; a thousand are plenty.
    """

    def __init__(self, num_images: int = 1000) -> None:
        self.num_images = num_images

    def after_train_epoch(self, runner: Runner) -> None:
        """Of an epoch, before its checkpoint is written."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._reestimate(runner, seed=runner.epoch)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Where iterations are counted, before each validation."""
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if not by_epoch and self.every_n_train_iters(runner, runner.val_interval):
            self._reestimate(runner, seed=runner.iter)

    def _reestimate(self, runner: Runner, seed: int) -> None:
        model = unwrapped(runner)
        with random_state_kept():
            batches = some_batches(runner.train_dataloader, self.num_images, seed)
            names = reestimate(model, batches, run_as_in_training)
        runner.logger.info(f'statistics of {len(names)} norms taken over {self.num_images} images')


def run_as_in_training(model: nn.Module, batch: dict) -> None:
    """Run a detector up to its losses."""
    model(**model.data_preprocessor(batch, True), mode='loss')
