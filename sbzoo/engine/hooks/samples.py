"""Samples of a generator at every evaluation, which also show whether it has collapsed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from sbzoo.engine.hooks.resume import last_good_checkpoint
from sbzoo.engine.runner import unwrapped
from sbzoo.engine.visualize import draw_samples, first_samples, save_png
from sbzoo.errors import UserError


@HOOKS.register_module()
class SamplesHook(Hook):
    """Draws the same samples at every evaluation, and stops a run that has collapsed.

    They go to `samples/epoch_N.png` of the work directory, and to the visualizer.

    Args:
        num: How many.

    Raises:
        UserError: All samples are the same.
    """

    def __init__(self, num: int = 64) -> None:
        self.num = num

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Draw, and look at what was drawn."""
        samples = first_samples(unwrapped(runner), runner.val_dataloader.dataset, self.num)
        grid = draw_samples(samples)
        save_png(grid, Path(runner.work_dir) / 'samples' / f'epoch_{runner.epoch}.png')
        runner.visualizer.add_image('samples', np.array(grid), step=runner.iter)
        spread = torch.stack([s.fake_img for s in samples]).float().std(dim=0, correction=0).mean()
        if len(samples) > 1 and spread < 1:
            raise UserError(
                f'epoch {runner.epoch}: the generator has collapsed, its {len(samples)} samples '
                f'differ by {spread:.2g} of 255; {last_good_checkpoint(runner)}'
            )
