"""A picture of what a detector finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from PIL import Image

COLUMNS, ROWS, TILE = 4, 2, 320  # pixels, side of a tile


@torch.no_grad()
def draw_detections(runner: Runner, path: str | Path, score: float = 0.3) -> Path:
    """Draw ground truth (left half) and detections (right half) of the first test pictures.

    Args:
        runner: Has a trained model and a test data set.
        path: Where the PNG goes.
        score: Detections below this score are not drawn.
    """
    dataset = runner.test_dataloader.dataset
    model = runner.model.eval()
    tiles = []
    for index in range(min(COLUMNS * ROWS, len(dataset))):
        (sample,) = model.test_step(pseudo_collate([dataset[index]]))
        tiles.append(_tile(runner.visualizer, sample.cpu(), score))
    rows = [np.concatenate(tiles[i : i + COLUMNS], axis=1) for i in range(0, len(tiles), COLUMNS)]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows)).save(path)
    return Path(path)


def _tile(visualizer, sample, score: float) -> np.ndarray:
    picture = Image.open(sample.img_path).convert('RGB')
    visualizer.add_datasample(
        'picture', np.array(picture), sample, pred_score_thr=score, show=False, draw_gt=True
    )
    drawn = Image.fromarray(visualizer.get_image())
    drawn.thumbnail((2 * TILE, TILE))
    tile = Image.new('RGB', (2 * TILE, TILE))
    tile.paste(drawn)
    return np.array(tile)
