"""What is shown of a generator: how far its images are from real ones, and a grid of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.utils import make_grid

from sbzoo.engine.hooks.resume import last_good_checkpoint
from sbzoo.engine.runner import unwrapped
from sbzoo.errors import UserError
from sbzoo.files import write
from sbzoo.gan.models.base import AdversarialModel

FIELDS = ('source_img', 'fake_img', 'target_img')  # of a sample, side by side
WIDTH = 1024  # pixels of a grid, about
BATCH = 16


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


@torch.no_grad()
def first_samples(
    model: AdversarialModel, dataset: Dataset, num: int = 64
) -> list[BaseDataElement]:
    """What a model makes of the first items of a validation set."""
    items = [dataset[i] for i in range(min(num, len(dataset)))]
    batches = (items[i : i + BATCH] for i in range(0, len(items), BATCH))
    return [sample for batch in batches for sample in model.val_step(pseudo_collate(batch))]


def draw_samples(samples: list[BaseDataElement], columns: int = 8) -> Image.Image:
    """A grid of samples; translations, fewer, between their source and, if there is one, target."""
    rows = [torch.cat([s.get(f) for f in FIELDS if f in s], dim=2) for s in samples]
    parts = rows[0].shape[2] // rows[0].shape[1]
    return image_grid(torch.stack(rows[: max(1, len(rows) // parts)]), columns // parts)


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """A grid of uint8 images [N, 3, H, W]; small ones are enlarged, pixel by pixel."""
    factor = max(1, WIDTH // (images.shape[3] * columns))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(images, columns, padding=2 * factor, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a picture, which appears under its name only when it is complete."""
    data = io.BytesIO()
    image.save(data, format='PNG')
    write(path, data.getvalue())
    return path


def table(metrics: dict[str, float]) -> Table:
    """The metrics of an evaluation, a row each."""
    result = Table('metric', 'value')
    for name, value in metrics.items():
        result.add_row(name, f'{value:.4g}')
    return result


def draw(runner: Runner) -> str:
    """Draw samples to the work directory, and say where they are."""
    model, dataset = unwrapped(runner), runner.test_dataloader.dataset
    samples = first_samples(model, dataset)
    path = save_png(draw_samples(samples), Path(runner.work_dir) / 'samples.png')
    return f'{path} ({len(samples)} samples)'
