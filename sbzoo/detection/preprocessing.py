"""Input normalization (mean, std, channel order) that pretrained weights were trained with.

A detector with another one trains without an error, and worse: 2 AP in
https://github.com/open-mmlab/mmdetection/issues/453.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.model import ImgDataPreprocessor
from torch import nn

from sbzoo.errors import UserError


class Preprocessing(NamedTuple):
    """Mean and standard deviation, in the order of the channels, of pixels in [0, 255]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rgb: bool = True

    @classmethod
    def of_unit_range(cls, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        """From the mean and standard deviation of RGB pixels in [0, 1]."""
        return cls(*(tuple(round(255 * v, 3) for v in values) for values in (mean, std)))

    def __str__(self) -> str:
        order = 'RGB' if self.rgb else 'BGR'
        mean, std = ([round(v, 3) for v in values] for values in self[:2])
        return f'{order}, mean {mean}, std {std}'

    def is_close(self, other: Preprocessing) -> bool:
        """Whether both are equal up to the rounding of different sources, less than 1 of 255."""
        pairs = zip(self.mean + self.std, other.mean + other.std, strict=True)
        return self.rgb == other.rgb and all(abs(a - b) < 1 for a, b in pairs)


TORCHVISION = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE2 = Preprocessing((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), rgb=False)
CAFFE = Preprocessing((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), rgb=False)

# Checkpoints whose preprocessing is known, by the configs of MMDetection that train with them.
CHECKPOINTS = {
    r'torchvision://.*': TORCHVISION,
    r'open-mmlab://(contrib|jhu)/.*_gn(_ws)?': TORCHVISION,
    r'open-mmlab://detectron/resnet\d+_gn': CAFFE2,
    r'open-mmlab://detectron2/resnet\d+_caffe': CAFFE2,
    r'open-mmlab://detectron/resnet\d+_caffe': CAFFE,
    r'.*/XingangPan/IBN-Net/.*': TORCHVISION,
}


def check_preprocessing(model: nn.Module) -> None:
    """Check that a detector normalises its images as its pretrained backbone expects.

    A backbone that starts from random weights, or from a checkpoint that is not in `CHECKPOINTS`,
    is not checked.

    Raises:
        UserError: It does not; the message names both normalizations.
    """
    given, wanted = _given(model), _wanted(getattr(model, 'backbone', None))
    if given and wanted and not given.is_close(wanted):
        raise UserError(
            f'model.data_preprocessor: the pretrained backbone was trained with {wanted}; '
            f'the detector would give it {given}. Set mean, std and bgr_to_rgb={wanted.rgb}'
        )


def _wanted(backbone: nn.Module | None) -> Preprocessing | None:
    init_cfg = getattr(backbone, 'init_cfg', None)
    if not isinstance(init_cfg, dict):
        return None
    if hasattr(backbone, 'preprocessing'):
        return backbone.preprocessing
    checkpoint = init_cfg.get('checkpoint', '')
    found = (known for name, known in CHECKPOINTS.items() if re.fullmatch(name, checkpoint))
    return next(found, None)


def _given(model: nn.Module) -> Preprocessing | None:
    """Of a detector whose images are loaded as BGR, which is OpenMMLab's default."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(preprocessor, ImgDataPreprocessor):
        return None
    mean, std = (0.0,) * 3, (1.0,) * 3
    if preprocessor._enable_normalize:
        tables = (preprocessor.mean, preprocessor.std)
        mean, std = (tuple(torch.broadcast_to(t.flatten(), (3,)).tolist()) for t in tables)
    return Preprocessing(mean, std, preprocessor._channel_conversion)
