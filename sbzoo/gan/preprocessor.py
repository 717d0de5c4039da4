"""Data preprocessor of the adversarial models: uint8 images to batches in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor

from sbzoo.images import to_plus_minus_one

Inputs = Tensor | dict[str, Tensor]


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Stacks RGB images in [0, 255] into a batch [N, 3, H, W] in [-1, 1].

    A dict of lists of images becomes a dict of batches; what is not an image stays unchanged.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch of the data loader to the device of the model and normalise it."""
        inputs = _batch(self.cast_data(data['inputs']))
        return dict(inputs=inputs, data_samples=data.get('data_samples'))


def _batch(inputs: Mapping | list | Tensor) -> Inputs:
    if isinstance(inputs, Mapping):
        return {name: _batch(value) for name, value in inputs.items()}
    if isinstance(inputs, list) and torch.is_tensor(inputs[0]):
        inputs = torch.stack(inputs)
    return to_plus_minus_one(inputs) if torch.is_tensor(inputs) else inputs
