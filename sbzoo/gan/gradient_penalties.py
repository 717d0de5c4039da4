"""Penalties on the gradient of the discriminator by its images.

All are without their weight. Where the logits of an image are many, they are summed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sbzoo.errors import choose

Discriminate = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N, ...]
Penalty = Callable[[Discriminate, Tensor, Tensor], Tensor]


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


PENALTIES: dict[str, Penalty] = {'r1': r1, 'r2': r2, 'wgan-gp': wgan_gp}


def gan_penalty(name: str) -> Penalty:
    """The row of `PENALTIES` of that name.

    Raises:
        UserError: There is none; the message lists them.
    """
    return choose('penalty', name, PENALTIES)
