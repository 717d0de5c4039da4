"""Transforms of image datasets: random crop, and packing of the inputs of a model."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement


@TRANSFORMS.register_module()
class RandomSquare(BaseTransform):
    """Random square crop of `img` [H, W, 3].

    For a pair it goes into mmcv's `TransformBroadcaster` with `share_random_params=True`, so that
    both get the same crop.

    Args:
        size: The side in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @cache_randomness
    def _corner(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = height - self.size + 1, width - self.size + 1
        return np.random.randint(rows), np.random.randint(columns)

    def transform(self, results: dict) -> dict:
        top, left = self._corner(*results['img'].shape[:2])
        results['img'] = results['img'][top : top + self.size, left : left + self.size]
        return results


@TRANSFORMS.register_module()
class PackImage(BaseTransform):
    """Packs `inputs`, uint8 RGB [3, H, W], and `data_samples`.

    The data sample has the `gt_label`, if there is one, and `img_path` in its metainfo.
    """

    def transform(self, results: dict) -> dict:
        return dict(inputs=self._inputs(results), data_samples=self._sample(results))

    def _inputs(self, results: dict) -> torch.Tensor | dict[str, torch.Tensor]:
        return _to_tensor(results['img'])

    def _sample(self, results: dict) -> BaseDataElement:
        labels = {key: results[key] for key in ('gt_label',) if key in results}
        paths = {key: results[key] for key in ('img_path', 'target_path') if key in results}
        return BaseDataElement(metainfo=paths, **labels)


@TRANSFORMS.register_module()
class PackPair(PackImage):
    """Packs `inputs` of a translation: a `source` and a `target`, each [3, H, W]."""

    def _inputs(self, results: dict) -> dict[str, torch.Tensor]:
        return {key: _to_tensor(results[key]) for key in ('source', 'target')}


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
