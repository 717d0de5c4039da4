"""Penalties on the gradient of the discriminator by its images.

All are without their weight. Where the logits of an image are many, they are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sbzoo.errors import UserError, choose

Discriminate = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N, ...]
GradientPenalty = Callable[[Discriminate, Tensor, Tensor], Tensor]


def r1(discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
    """Zero-centred, on real images (Mescheder et al. 2018, arXiv 1801.04406).

    Half the mean over images of |gradient|^2: times a weight it is gamma / 2 E |gradient|^2 of the
    papers, whose gamma is the weight.

    Args:
        discriminate: The discriminator.
        real: Images [N, C, H, W].
        fake: Not used.

    Returns:
        A scalar with a graph, differentiable by the discriminator's parameters.
    """
    return _gradient(discriminate, real).square().sum(1).mean() / 2


def r2(discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
    """As `r1`, on fake images."""
    return r1(discriminate, fake, real)


def wgan_gp(discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
    """Mean of (|gradient| - 1)^2 between the images (Gulrajani et al. 2017, arXiv 1704.00028).

    Args:
        discriminate: The critic.
        real: Images [N, C, H, W].
        fake: As many.

    Returns:
        As of `r1`.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    between = torch.lerp(real, fake, share)
    return (_gradient(discriminate, between).norm(dim=1) - 1).square().mean()


def _gradient(discriminate: Discriminate, images: Tensor) -> Tensor:
    """Of the sum of all logits by the images, [N, C * H * W]."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminate(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


PENALTIES: dict[str, GradientPenalty] = {'r1': r1, 'r2': r2, 'wgan-gp': wgan_gp}


@dataclass(frozen=True)
class LazyPenalty:
    """A gradient penalty every `interval` steps and as much stronger (arXiv 1912.04958).

    Args:
        type: A row of `PENALTIES`.
        weight: Its factor.
        interval: In steps of the discriminator.

    Raises:
        UserError: An unknown type, or an interval below 1.
    """

    type: str
    weight: float
    interval: int = 1

    def __post_init__(self) -> None:
        choose('penalty', self.type, PENALTIES)
        if self.interval < 1:
            raise UserError(f'penalty {self.type}: interval {self.interval}; it can be 1 or more')

    def __call__(self, discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
        """The penalty of images [N, C, H, W], with its factor."""
        return self.weight * self.interval * PENALTIES[self.type](discriminate, real, fake)
