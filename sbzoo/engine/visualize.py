"""What is shown of a run: its metrics, what its model makes of test data, and its curves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
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

    A picture is drawn as the model gets it (turned, flipped and resized by the test pipeline), in
    pixels of the original: small ones several times as large, large ones reduced.

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
        item = dataset[index]
        (sample,) = model.test_step(pseudo_collate([item]))
        row, column = divmod(index, COLUMNS)
        tile = _tile(visualizer, item['inputs'], sample.cpu(), score)
        canvas.paste(tile, (column * 2 * SIDE, row * SIDE))
    return save_png(canvas, path)


def _tile(
    visualizer: DetLocalVisualizer, inputs: Tensor, sample: DetDataSample, score: float
) -> Image.Image:
    """Ground truth, which is in pixels of the input, and detections, in pixels of the original."""
    original = np.array(sample.ori_shape)
    factors = np.array(sample.get('scale_factor', (1, 1)))[::-1]  # of height and width
    covered = (original * factors).round().astype(int)  # the input without its padding
    size = (original * _scale(original.max())).round().astype(int).clip(1)
    shown = DetDataSample(gt_instances=_resized(sample.gt_instances, covered, size))
    if 'pred_instances' in sample:
        shown.pred_instances = _resized(sample.pred_instances, original, size)
    picture = _rgb(inputs).crop((0, 0, *covered[::-1])).resize(size[::-1])
    visualizer.add_datasample('', np.array(picture), shown, pred_score_thr=score)
    return Image.fromarray(visualizer.get_image())


def painter(classes: Sequence[str], palette: Sequence | None) -> DetLocalVisualizer:
    """What `draw_found` draws with; without enough colours it takes MMDetection's random ones."""
    visualizer = DetLocalVisualizer()  # one that writes nothing down
    enough = palette is not None and len(palette) >= len(classes)
    visualizer.dataset_meta = dict(classes=classes, palette=list(palette) if enough else None)
    return visualizer


def draw_found(
    visualizer: DetLocalVisualizer, pixels: np.ndarray, found: InstanceData
) -> Image.Image:
    """Draw detections on their picture, RGB uint8 [H, W, 3]; a small one is enlarged.

    Their order is reversed, so that the names of the first, the surest, are not drawn over.
    """
    original = np.array(pixels.shape[:2])
    size = original * max(1, SIDE // original.max())
    picture = np.array(Image.fromarray(pixels).resize(size[::-1]))
    upwards = torch.arange(len(found)).flip(0)
    shown = DetDataSample(pred_instances=_resized(found[upwards], original, size))
    visualizer.add_datasample('', picture, shown, draw_gt=False, pred_score_thr=-1)
    return Image.fromarray(visualizer.get_image())


def _scale(side: int) -> float:
    """A whole number for small pictures, whose pixels are then seen; below 1 for large ones."""
    return SIDE // side if side <= SIDE else SIDE / side


def _rgb(inputs: Tensor) -> Image.Image:
    """What a pipeline has packed, BGR or grey [C, H, W] in 0 to 255."""
    pixels = inputs[:3].clamp(0, 255).byte().expand(3, -1, -1).flip(0)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _resized(instances: InstanceData, old: np.ndarray, new: np.ndarray) -> InstanceData:
    """Instances at their place in a picture of another size [height, width]."""
    resized = instances.clone()
    if 'bboxes' in instances:
        factors = torch.from_numpy(new / old).flip(0).repeat(2)
        resized.bboxes = instances.bboxes * factors.to(instances.bboxes)
    if 'masks' in instances:
        masks = instances.masks
        masks = masks.numpy() if torch.is_tensor(masks) else masks.to_ndarray()  # [n, H, W]
        for axis in (0, 1):
            nearest = np.arange(new[axis]) * old[axis] // new[axis]
            masks = masks.take(nearest, axis + 1, mode='clip')
        resized.masks = masks
    return resized


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

    A run that was resumed has several logs: what a later one begins with counts.
    """
    curves: dict[str, Curve] = {}
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for name, curve in _read_log(log).items():
            start = min(curve)
            before = {s: v for s, v in curves.get(name, {}).items() if s < start}
            curves[name] = before | curve
    return curves


def _read_log(path: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = defaultdict(dict)
    for line in path.read_text().split('\n')[:-1]:  # a killed run may leave half a line
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
        'noise scale (images)': {'': curves.get('noise_scale', {})},
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
