"""Pictures of detections: all is drawn at its place, whatever the pipeline does to a picture."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.dataset import Compose
from mmengine.structures import InstanceData
from PIL import Image

from sbzoo.engine.visualize import SIDE, draw_detections

BOX = (34, 30, 84, 80)  # left, top, right and bottom of the object, white on grey
META = ('ori_shape', 'scale_factor')
RESIZE = {
    'none': [],
    'smaller': [dict(type='Resize', scale=(96, 96), keep_ratio=True)],
    'larger': [dict(type='Resize', scale=(700, 500), keep_ratio=True)],
    'distorted': [dict(type='Resize', scale=(96, 128), keep_ratio=False)],
    'letterbox': [
        dict(type='Resize', scale=(160, 160), keep_ratio=True),
        dict(type='Pad', size=(160, 160), pad_val=dict(img=(114, 114, 114))),
    ],
    'flipped': [
        dict(type='Resize', scale=(150, 150), keep_ratio=True),
        dict(type='RandomFlip', prob=1.0),
    ],
}


def write_picture(path: Path, width: int, height: int, kind: str = 'RGB') -> None:
    pixels = np.full((height, width), 90, np.uint8)
    left, top, right, bottom = BOX
    pixels[top:bottom, left:right] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    if kind == '16 bits':
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif kind == 'transparent':
        image.putalpha(Image.fromarray(pixels // 10))
    elif kind == 'turned':
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6  # to be shown turned clockwise
    elif kind == 'RGB':
        image = image.convert('RGB')
    image.save(path, exif=exif)


def read_item(path: Path, width: int, height: int, resize: str, polygons: bool | None) -> dict:
    """What a data set of MMDetection gives; masks as polygons or bitmaps, None for no masks."""
    loaded = dict(with_bbox=True, with_mask=polygons is not None, poly2mask=not polygons)
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', **loaded),
        *RESIZE[resize],
        dict(type='PackDetInputs', meta_keys=META),
    ]
    left, top, right, bottom = BOX
    outline = [left, top, right, top, right, bottom, left, bottom]
    instance = dict(bbox=[*BOX], bbox_label=0, ignore_flag=0, mask=[outline])
    info = dict(img_path=str(path), instances=[instance], width=width, height=height)
    return Compose([TRANSFORMS.build(step) for step in steps])(info)


class Model(torch.nn.Module):
    """Finds the object where it is, in pixels of the original, as MMDetection's detectors do."""

    def __init__(self, flipped: bool, masks: bool) -> None:
        super().__init__()
        self.flipped, self.masks = flipped, masks

    def test_step(self, batch: dict) -> list[DetDataSample]:
        (sample,) = batch['data_samples']
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.tensor
        height, width = sample.ori_shape
        left, top, right, bottom = place(width, self.flipped)
        found = InstanceData(
            bboxes=torch.tensor([[left, top, right, bottom]]).float(),
            scores=torch.tensor([0.9]),
            labels=torch.tensor([0]),
        )
        if self.masks:
            found.masks = torch.zeros(1, height, width, dtype=torch.bool)
            found.masks[:, top:bottom, left:right] = True
        sample.pred_instances = found
        return [sample]


def place(width: int, flipped: bool) -> tuple[int, int, int, int]:
    left, top, right, bottom = BOX
    return (width - right, top, width - left, bottom) if flipped else BOX


def draw(tmp_path: Path, item: dict, model: Model) -> np.ndarray:
    """Both pictures of the first tile, [2, SIDE, SIDE, 3]."""
    visualizer = SimpleNamespace(dataset_meta=dict(classes=('o',), palette=[(255, 0, 0)]))
    loader = SimpleNamespace(dataset=[item])
    runner = SimpleNamespace(test_dataloader=loader, model=model, visualizer=visualizer)
    path = draw_detections(runner, tmp_path / 'detections.png')
    return np.asarray(Image.open(path)).astype(int)[:SIDE, : 2 * SIDE]


def bounds(where: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(where)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize('masks', [False, True])
@pytest.mark.parametrize(
    ('size', 'resize', 'polygons'),
    [
        ((96, 96), 'none', True),
        ((96, 96), 'larger', False),
        ((192, 144), 'smaller', True),
        ((192, 144), 'letterbox', False),
        ((192, 144), 'distorted', True),
        ((170, 330), 'smaller', False),
        ((170, 330), 'flipped', True),
        ((170, 330), 'none', False),
    ],
)
def test_boxes_and_masks_are_at_their_place(tmp_path, size, resize, polygons, masks):
    write_picture(tmp_path / 'a.png', *size)
    item = read_item(tmp_path / 'a.png', *size, resize, polygons if masks else None)
    flipped = resize == 'flipped'
    pixels = draw(tmp_path, item, Model(flipped, masks))
    scale = 3 if size == (96, 96) else min(1, SIDE / max(size))
    wanted = np.array(place(size[0], flipped)) * scale
    width = round(size[0] * scale)
    for half in (pixels[:, :width], pixels[:, width : 2 * width]):  # ground truth, detections
        coloured = half.max(2) - half.min(2) > 60
        np.testing.assert_allclose(bounds(coloured), wanted, atol=4)  # of the line and of rounding
        left, top, right, bottom = wanted.round().astype(int)
        inner = coloured[(top + bottom) // 2 : bottom, (left + right) // 2 : right]  # no label
        assert (inner.mean() > 0.8) == masks
        if not masks:
            bright = half[: round(size[1] * scale)].min(2) > 200
            np.testing.assert_allclose(bounds(bright), wanted, atol=4)


@pytest.mark.parametrize('kind', ['RGB', 'L', '16 bits', 'transparent', 'turned'])
def test_a_picture_is_shown_as_the_model_gets_it(tmp_path, kind):
    path = tmp_path / ('a.jpg' if kind == 'turned' else 'a.png')
    write_picture(path, 192, 144, kind)
    item = read_item(path, 192, 144, 'none', None)
    pixels = draw(tmp_path, item, Model(False, False))
    assert item['inputs'].shape == (3, 144, 192)
    assert np.abs(pixels[10, 10] - 90).max() <= 2
    assert pixels[60, 70].min() >= 253
    left, right = np.ptp(pixels[:144, :192], axis=2), np.ptp(pixels[:144, 192:384], axis=2)
    assert bounds(left > 60) == bounds(right > 60)


def test_a_pipeline_without_ground_truth_and_a_model_without_instances(tmp_path):
    write_picture(tmp_path / 'a.png', 192, 144)
    item = read_item(tmp_path / 'a.png', 192, 144, 'smaller', None)
    item['data_samples'].gt_instances = InstanceData()
    model = SimpleNamespace(eval=lambda: SimpleNamespace(test_step=lambda b: b['data_samples']))
    pixels = draw(tmp_path, item, model)
    np.testing.assert_array_equal(pixels[:144, :192], pixels[:144, 192:384])
