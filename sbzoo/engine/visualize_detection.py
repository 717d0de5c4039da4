"""What is shown of a detector: its AP, and a picture of what it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from rich.table import Table

COLUMNS, ROWS = 2, 3
SIDE = 288  # pixels, of the longer side of one picture


def table(metrics: dict[str, float]) -> Table:
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


def draw(runner: Runner) -> str:
    """Draw the detections to the work directory, and say where and what they are."""
    path = draw_detections(runner, Path(runner.work_dir) / 'detections.png')
    return f'{path} (left ground truth, right detections)'


@torch.no_grad()
def draw_detections(runner: Runner, path: str | Path, score: float = 0.3) -> Path:
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
    canvas.save(path)
    return Path(path)


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
