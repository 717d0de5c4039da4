"""Images on their way into a model and out of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor

Inputs = Tensor | dict[str, Tensor]


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Stacks RGB images of 0 to 255 into a batch [N, 3, H, W] of -1 to 1.

    A dict of lists of images becomes a dict of batches; what is no image is left as it is.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Bring a batch of the data loader to the device of the model."""
        inputs = _batch(self.cast_data(data['inputs']))
        return dict(inputs=inputs, data_samples=data.get('data_samples'))


def _batch(inputs: Mapping | list | Tensor) -> Inputs:
    if isinstance(inputs, Mapping):
        return {name: _batch(value) for name, value in inputs.items()}
    if isinstance(inputs, list) and torch.is_tensor(inputs[0]):
        inputs = torch.stack(inputs)
    return inputs / 127.5 - 1 if torch.is_tensor(inputs) else inputs


def to_uint8(images: Tensor) -> Tensor:
    """Images of -1 to 1 as integers of 0 to 255."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
