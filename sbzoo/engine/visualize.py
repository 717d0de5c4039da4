"""What is shown of a run: its metrics, what its model makes of test data, and its curves."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.utils import make_grid

from sbzoo.engine.runner import unwrapped
from sbzoo.files import replacing
from sbzoo.gan.models.base import AdversarialModel

COLUMNS, ROWS = 2, 3  # of drawn detections
SIDE = 288  # pixels, of the longer side of one picture
FIELDS = ('source_img', 'fake_img', 'target_img')  # of a sample, side by side
WIDTH = 1024  # pixels of a grid, about
BATCH = 16
Curve = dict[int, float]  # value by step


def detection_table(metrics: dict[str, float]) -> Table:
    """The metrics of `CocoAP` as a table, a row for boxes and one for masks.

    Other metrics, of a config that evaluates otherwise, are in rows of their own.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        kind, _, metric = name.removeprefix('coco/').partition('_')
        rows.setdefault(kind, {})[metric or 'value'] = value
    columns = dict.fromkeys(metric for values in rows.values() for metric in values)
    result = Table('', *columns)
    for kind, values in rows.items():
        result.add_row(kind, *(_cell(values.get(c)) for c in columns))
    return result


def _cell(value: float | None) -> str:
    """A number; COCO's -1 is that no object is of this size."""
    return '-' if value is None or value < 0 else f'{value:.3f}'


def generation_table(metrics: dict[str, float]) -> Table:
    """The metrics of an evaluation, a row each."""
    result = Table('metric', 'value')
    for name, value in metrics.items():
        result.add_row(name, f'{value:.4g}')
    return result


def draw_results(runner: Runner) -> str:
    """Draw what a model makes of test data to the work directory; where, and what is to be seen."""
    folder, model = Path(runner.work_dir), unwrapped(runner)
    if not isinstance(model, AdversarialModel):
        path = draw_detections(runner, folder / 'detections.png')
        return f'{path} (left ground truth, right detections)'
    samples = first_samples(model, runner.test_dataloader.dataset)
    path = save_png(draw_samples(samples), folder / 'samples.png')
    return f'{path} ({len(samples)} samples)'


@torch.no_grad()
def draw_detections(runner: Runner, path: Path, score: float = 0.3) -> Path:
    """Draw the first test pictures: each with its ground truth, then with the detections.

    Args:
        runner: Has a trained model and a test data set.
        path: Where the PNG goes.
        score: Detections below this score are not drawn.
    """
    dataset = runner.test_dataloader.dataset
    model = runner.model.eval()
    visualizer = DetLocalVisualizer()  # one that writes nothing down
    visualizer.dataset_meta = runner.visualizer.dataset_meta
    canvas = Image.new('RGB', (COLUMNS * 2 * SIDE, ROWS * SIDE), 'white')
    for index in range(min(COLUMNS * ROWS, len(dataset))):
        (sample,) = model.test_step(pseudo_collate([dataset[index]]))
        row, column = divmod(index, COLUMNS)
        tile = _tile(visualizer, sample.cpu(), score)
        canvas.paste(tile, (column * 2 * SIDE, row * SIDE))
    return save_png(canvas, path)


def _tile(visualizer: DetLocalVisualizer, sample: DetDataSample, score: float) -> Image.Image:
    picture = Image.open(sample.img_path).convert('RGB')
    factor = max(1, SIDE // max(picture.size))
    for instances in (sample.gt_instances, sample.pred_instances):
        _enlarge(instances, factor)
    picture = picture.resize((picture.width * factor, picture.height * factor))
    visualizer.add_datasample('', np.array(picture), sample, pred_score_thr=score, show=False)
    drawn = Image.fromarray(visualizer.get_image())
    drawn.thumbnail((2 * SIDE, SIDE))
    return drawn


def _enlarge(instances: InstanceData, factor: int) -> None:
    """So that boxes and labels are drawn on small pictures at a size that can be read."""
    instances.bboxes = instances.bboxes * factor
    masks = instances.get('masks')
    if torch.is_tensor(masks):  # [instances, H, W]
        masks = masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        instances.masks = masks
    elif masks is not None:
        instances.masks = masks.rescale(factor)


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
    with replacing(path) as file:
        image.save(file, format='PNG')
    return path


def read_curves(work_dir: str | Path) -> dict[str, Curve]:
    """What mmengine logged of the training steps in a work directory, by name.

    A run that was resumed has several logs: of a step that was done twice, the later counts.
    """
    curves: dict[str, Curve] = defaultdict(dict)
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            record = json.loads(line)
            step = record.pop('step')
            for name, value in record.items():
                curves[name][step] = value
    return curves


def draw_curves(work_dir: str | Path) -> Path | None:
    """Draw losses, gradient noise scale and alphas to `curves.png`; None if none was logged."""
    curves = read_curves(work_dir)
    of_networks = {name[5:]: curve for name, curve in curves.items() if name.startswith('loss_')}
    panels = {
        'loss': {'': curves['loss']} if 'loss' in curves else of_networks,
        'noise scale (images)': {'': curves['noise_scale']},
        'alpha': {n[6:]: curve for n, curve in curves.items() if n.startswith('alpha/')},
    }
    panels = {label: lines for label, lines in panels.items() if any(lines.values())}
    if not panels:
        return None
    figure = Figure(figsize=(8, 2.6 * len(panels)), layout='constrained')
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, (label, lines) in zip(axes, panels.items(), strict=True):
        _draw(panel, label, lines)
    axes[-1].set_xlabel('step')
    path = Path(work_dir) / 'curves.png'
    with replacing(path) as file:
        figure.savefig(file, dpi=120)
    return path


def _draw(axes: Axes, label: str, lines: dict[str, Curve]) -> None:
    """One panel; layers of one part of the model (backbone, neck, ...) share a colour."""
    parts = list(dict.fromkeys(layer.split('.')[0] for layer in lines))
    for layer, curve in lines.items():
        part = layer.split('.')[0]
        axes.plot(*zip(*sorted(curve.items()), strict=True), f'C{parts.index(part)}.-', lw=1)
    if len(parts) > 1:
        handles = [axes.plot([], [], f'C{index}')[0] for index in range(len(parts))]
        axes.legend(handles, parts, loc='upper left', fontsize='small')
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
