"""Differentiable augmentation (DiffAugment, Zhao et al. 2020, arXiv 2006.10738).

Every image of a batch draws its own random numbers, from torch's generator of its device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sbzoo.errors import choose

Augment = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> images [N, C, H, W]


def color(x: Tensor) -> Tensor:
    """Brightness by up to 0.5 either way, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    x = x + _uniform(x, -0.5, 0.5)
    grey = x.mean(1, keepdim=True)
    x = torch.lerp(grey, x, _uniform(x, 0, 2))
    level = x.mean((1, 2, 3), keepdim=True)
    return torch.lerp(level, x, _uniform(x, 0.5, 1.5))


def translation(x: Tensor, ratio: float = 1 / 8) -> Tensor:
    """A shift by up to `ratio` of each side, padded with zeros."""
    reach = [_pixels(side, ratio) for side in x.shape[2:]]
    rows, columns = (
        torch.arange(side, device=x.device) + _integers(x, 2 * by + 1)
        for side, by in zip(x.shape[2:], reach, strict=True)
    )
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    sample = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def cutout(x: Tensor, ratio: float = 1 / 2) -> Tensor:
    """Zeros in a rectangle of `ratio` of each side, which may extend beyond the border."""
    inside = []
    for side in x.shape[2:]:
        size = _pixels(side, ratio)
        first = _integers(x, side + 1 - size % 2) - size // 2
        position = torch.arange(side, device=x.device)
        inside.append((position >= first) & (position < first + size))
    rows, columns = inside
    return x.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)


def flip(x: Tensor) -> Tensor:
    """A horizontal flip with probability 0.5."""
    return torch.where(_uniform(x, 0, 1) < 0.5, x.flip(3), x)


def _pixels(side: int, ratio: float) -> int:
    """A part of a side, a half of a pixel upwards, where Python rounds to even."""
    return int(side * ratio + 0.5)


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """A uniform random number for each image, [N, 1, 1, 1]."""
    return torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).uniform_(low, high)


def _integers(x: Tensor, count: int) -> Tensor:
    """A random integer below `count` for each image, [N, 1]."""
    return torch.randint(count, (len(x), 1), device=x.device)


AUGMENTATIONS: dict[str, Augment] = dict(
    color=color, translation=translation, cutout=cutout, flip=flip
)


@dataclass
class DiffAugment:
    """Augmentations in their order, each of each image with the same probability.

    Below a probability of about 0.8 generated images do not learn them (Karras et al. 2020,
    arXiv 2006.06676).
    """

    steps: list[Augment]
    probability: float = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        """From images [N, C, H, W] to the same shape."""
        for step in self.steps:
            images = self._at_random(step, images)
        return images

    def _at_random(self, step: Augment, images: Tensor) -> Tensor:
        if self.probability >= 1:
            return step(images)
        return torch.where(_uniform(images, 0, 1) < self.probability, step(images), images)


def diff_augment(policy: str) -> DiffAugment:
    """The augmentation of a policy such as 'color,translation,cutout', in that order.

    Args:
        policy: Comma-separated names of `AUGMENTATIONS`; '' leaves images unchanged.

    Raises:
        UserError: Unknown name; the message lists the known ones.
    """
    names = [name.strip() for name in policy.split(',')] if policy.strip() else []
    steps = [choose('augmentation', name, AUGMENTATIONS) for name in names]
    return DiffAugment(steps)
