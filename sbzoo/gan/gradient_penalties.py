"""R1 and R2 gradient penalties, WGAN-GP: on the discriminator's gradient in its images.

The functions have no weight. Several logits of one image (PatchGAN) are summed.
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
    """Zero-centred penalty on real images (Mescheder et al. 2018, arXiv 1801.04406).

    Half the mean over images of |gradient|^2, so that the weight is the papers' gamma:
    gamma / 2 E |gradient|^2.

    Args:
        discriminate: The discriminator.
        real: Images [N, C, H, W].
        fake: Unused.

    Returns:
        A scalar, differentiable in the discriminator's parameters.
    """
    return _gradient(discriminate, real).square().sum(1).mean() / 2


def r2(discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
    """`r1` on fake images."""
    return r1(discriminate, fake, real)


def wgan_gp(discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP: mean of (|gradient| - 1)^2 at interpolates (Gulrajani et al. 2017, 1704.00028).

    Args:
        discriminate: The critic.
        real: Images [N, C, H, W].
        fake: Images of the same shape.

    Returns:
        See `r1`.
    """
    fraction = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    interpolates = torch.lerp(real, fake, fraction)
    return (_gradient(discriminate, interpolates).norm(dim=1) - 1).square().mean()


def _gradient(discriminate: Discriminate, images: Tensor) -> Tensor:
    """Gradient of the sum of all logits in the images, [N, C * H * W]."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminate(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


PENALTIES: dict[str, GradientPenalty] = {'r1': r1, 'r2': r2, 'wgan-gp': wgan_gp}


@dataclass
class LazyPenalty:
    """A gradient penalty with lazy regularization (Karras et al. 2020, arXiv 1912.04958).

    It is computed every `interval` steps, with `interval` times its weight.

    Args:
        type: A row of `PENALTIES`.
        weight: Its weight in the loss.
        interval: Discriminator steps from one penalty to the next.

    Raises:
        UserError: Unknown type, or an interval below 1.
    """

    type: str
    weight: float
    interval: int = 1

    def __post_init__(self) -> None:
        choose('penalty', self.type, PENALTIES)
        if self.interval < 1:
            raise UserError(f'penalty {self.type}: interval {self.interval}; it can be 1 or more')

    def __call__(self, discriminate: Discriminate, real: Tensor, fake: Tensor) -> Tensor:
        """The penalty of images [N, C, H, W], weighted."""
        return self.weight * self.interval * PENALTIES[self.type](discriminate, real, fake)
