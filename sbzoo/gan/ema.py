"""Exponential moving average (EMA) of the generator, which samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sbzoo.errors import UserError


class RampUpEMA(AveragedModel):
    """Exponential moving average of a generator, with a half-life that ramps up.

    The half-life is counted in images, so that it does not depend on the batch size, and is at
    most `ramp_up` of the images seen, so that the first weights are soon forgotten (Karras et al.
    2020, arXiv 2006.06676). Buffers, such as the running statistics of batch norm, are averaged
    like weights.

    Args:
        model: The generator; it is copied.
        half_life: In images.
        ramp_up: The largest half-life, as a fraction of the images seen.

    Raises:
        UserError: One of them is not positive.
    """

    def __init__(self, model: nn.Module, half_life: float = 10_000, ramp_up: float = 0.05) -> None:
        if half_life <= 0 or ramp_up <= 0:
            raise UserError(f'ema: half_life {half_life}, ramp_up {ramp_up}; both must be above 0')
        super().__init__(model, multi_avg_fn=self._blend, use_buffers=True)
        self.requires_grad_(False)
        self.half_life, self.ramp_up = half_life, ramp_up
        self.register_buffer('images', torch.tensor(0))
        self.decay = 0.0

    def update(self, model: nn.Module, images: int) -> None:
        """Average in the weights of `model` after a step on this many images."""
        self.images += images
        half_life = min(self.half_life, self.ramp_up * int(self.images))
        self.decay = 0.5 ** (images / half_life) if half_life else 0.0
        self.update_parameters(model)

    def _blend(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _: Tensor) -> None:
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - self.decay)
            else:  # a counter
                mean.copy_(value)
