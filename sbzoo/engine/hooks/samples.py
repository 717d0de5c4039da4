"""Samples of a generator at every evaluation, which also show whether it has collapsed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import Dataset

from sbzoo.engine.runner import random_state_kept, unwrapped
from sbzoo.engine.visualize import draw_samples, first_samples, save_png
from sbzoo.errors import UserError

WIDEST = 'widest_spread'  # in the message hub, which checkpoints keep
SHARE = 0.02


@HOOKS.register_module()
class SamplesHook(Hook):
    """Draws the same samples at every evaluation, and stops a run that has collapsed.

    They go to `samples/epoch_N.png` of the work directory, and to the visualizer.

    The spread of images is the standard deviation of a pixel over them, the mean of all pixels. A
    generator has collapsed when its samples have less than 2% of the widest spread that they had
    in this run, from before the first step on, and less than 2% of that of training images. So
    one that has hardly been trained is not taken for collapsed, nor one of images that are alike.
    A widest spread below 1 of 255 says nothing, as it comes and goes by rounding.

    Args:
        num: How many.

    Raises:
        UserError: The generator has collapsed.
    """

    def __init__(self, num: int = 64) -> None:
        self.num, self.real = num, 0.0

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Take the spread of training images, and of samples of the untrained generator."""
        with random_state_kept():
            self.real = _spread(_real_images(runner.train_dataloader.dataset, self.num))
            self._widest(runner, _spread_of(self._samples(runner)))

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Draw, and look at what was drawn."""
        samples = self._samples(runner)
        grid = draw_samples(samples)
        save_png(grid, Path(runner.work_dir) / 'samples' / f'epoch_{runner.epoch}.png')
        runner.visualizer.add_image('samples', np.array(grid), step=runner.iter)
        spread = _spread_of(samples)
        widest = self._widest(runner, spread)
        if widest >= 1 and spread < SHARE * min(widest, self.real):
            raise UserError(
                f'epoch {runner.epoch}: the generator has collapsed, its {len(samples)} samples '
                f'differ by {spread:.2g} of 255, by {widest:.2g} at their widest, and images of '
                f'the data by {self.real:.2g}; samples/ shows when; try a lower --lr or a larger '
                '--batch'
            )

    def _samples(self, runner: Runner) -> list[BaseDataElement]:
        return first_samples(unwrapped(runner), runner.val_dataloader.dataset, self.num)

    def _widest(self, runner: Runner, spread: float) -> float:
        """The widest spread of samples so far, in a run that was resumed too."""
        widest = max(spread, runner.message_hub.runtime_info.get(WIDEST, 0.0))
        runner.message_hub.update_info(WIDEST, widest)
        return widest


def _spread_of(samples: list[BaseDataElement]) -> float:
    return _spread([sample.fake_img for sample in samples])


def _spread(images: list[Tensor]) -> float:
    """Standard deviation over images [3, H, W], in levels of 255."""
    return torch.stack(images).float().std(dim=0, correction=0).mean().item()


def _real_images(dataset: Dataset, num: int) -> list[Tensor]:
    """The first images that a generator learns from; of a translation, those of the target."""
    inputs = [dataset[index]['inputs'] for index in range(min(num, len(dataset)))]
    return [each['target'] if isinstance(each, dict) else each for each in inputs]
