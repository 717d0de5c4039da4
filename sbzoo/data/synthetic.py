"""Synthetic pictures of one size, to measure a training without its data."""

from __future__ import annotations

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torch.utils.data import Dataset


class _Noise(Dataset):
    """`length` pictures of noise, uint8 [3, H, W]; number i is always the same."""

    def __init__(self, shape: tuple[int, int], length: int) -> None:
        self.shape, self.length = shape, length

    def __len__(self) -> int:
        return self.length

    def _picture(self, generator: torch.Generator) -> Tensor:
        size = (3, *self.shape)
        return torch.randint(256, size, dtype=torch.uint8, generator=generator)


@DATASETS.register_module()
class SyntheticScenes(_Noise):
    """Items as `PackDetInputs` makes them, with boxes of all sizes and their masks.

    Args:
        shape: Height and width of the pictures.
        length: Their number.
        boxes: The number of boxes in each.
        classes: The number of classes.
        masks: Whether boxes have masks, which are filled rectangles.
    """

    def __init__(
        self, shape: tuple[int, int], length: int, boxes: int, classes: int, masks: bool
    ) -> None:
        super().__init__(shape, length)
        self.boxes, self.classes, self.masks = boxes, classes, masks

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        height, width = self.shape
        meta = dict(img_id=index, img_path='', ori_shape=self.shape, img_shape=self.shape)
        sample = DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0), flip=False))
        corners = _boxes(self.boxes, generator) * torch.tensor([width, height, width, height])
        labels = torch.randint(self.classes, (self.boxes,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=corners, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=corners[:0], labels=labels[:0])
        if self.masks:
            sample.gt_instances.masks = self._filled(corners)
        return dict(inputs=self._picture(generator), data_samples=sample)

    def _filled(self, corners: Tensor) -> BitmapMasks:
        masks = torch.zeros(len(corners), *self.shape, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, corners.int().tolist(), strict=True):
            mask[top : bottom + 1, left : right + 1] = 1
        return BitmapMasks(masks.numpy(), *self.shape)


def _boxes(count: int, generator: torch.Generator) -> Tensor:
    """Corners [count, 4] in the unit square; sides are log-uniform from 1/50 to 1/2."""
    sides = 0.02 * 25 ** torch.rand(count, 2, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (1 - sides)
    return torch.cat([corners, corners + sides], dim=1)


@DATASETS.register_module()
class SyntheticImages(_Noise):
    """Items as `PackImage` or `PackPair` make them, all of one class.

    Args:
        shape: Height and width of the images.
        length: Their number.
        pairs: Whether an item has a source and a target.
    """

    def __init__(self, shape: tuple[int, int], length: int, pairs: bool) -> None:
        super().__init__(shape, length)
        self.pairs = pairs

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        names = ('source', 'target') if self.pairs else ('img',)
        images = {name: self._picture(generator) for name in names}
        sample = BaseDataElement(metainfo=dict(img_path=''), gt_label=0)
        return dict(inputs=images if self.pairs else images['img'], data_samples=sample)
