"""The base class of feature extractors, and the names of metrics on their features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Extractor(nn.Module):
    """Features of images: uint8 RGB [N, 3, H, W], or a list of [3, H, W] of any sizes, to [N, d].

    Attributes:
        spec: Its name: `inception`, `inception:64`, `timm:resnet18`, `digits`.
        d: Dimensions of a feature.
        resize: How images are resized, in words.
        sha256: Of the file of its weights, in hexadecimal digits.
    """

    spec: str
    d: int
    resize: str
    sha256: str
    CHUNK = 8  # images at once: what the layers of so few hand on stays in the cache of a CPU

    @property
    def protocol(self) -> str:
        """What a number depends on beside the images; a cache key for the features, too."""
        return f'{self.spec}, weights {self.sha256[:8]}, {self.resize}'

    @abstractmethod
    def prepare(self, image: Tensor) -> Tensor:
        """From an image, uint8 [1, 3, H, W], to the network's input, [1, 3, S, S]."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """From inputs [N, 3, S, S] to features [N, d]."""

    @torch.inference_mode()
    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Features in float32, on the CPU."""
        device = next(self.parameters()).device
        chunk = self.CHUNK if device.type == 'cpu' else len(images)
        parts = [images[i : i + chunk] for i in range(0, len(images), max(chunk, 1))]
        inputs = (torch.cat([self.prepare(x[None].to(device)) for x in part]) for part in parts)
        features = [self.embed(x).float().cpu() for x in inputs]
        return torch.cat(features) if features else torch.empty(0, self.d)


def frechet_name(spec: str) -> str:
    """What the Frechet distance on an extractor's features is called.

    FID (Heusel et al. 2017) is that of the Inception of 2015-12-05 at 2048 dimensions alone.
    """
    return 'FID' if spec == 'inception' else f'FD-{spec.replace(":", "-")}'


def kid_name(spec: str) -> str:
    """What KID on an extractor's features is called."""
    return frechet_name(spec).replace('FID', 'KID').replace('FD-', 'KID-', 1)
