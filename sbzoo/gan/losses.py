"""Adversarial losses of generator and discriminator, from logits of any shape to their mean.

They are what the papers minimise, without weights; least squares is without the paper's factor of
one half, as in CycleGAN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class AdversarialLoss(NamedTuple):
    """The losses of discriminator and generator."""

    discriminator: Callable[[Tensor, Tensor], Tensor]  # (real logits, fake logits)
    generator: Callable[[Tensor, Tensor | None], Tensor]  # (fake logits, real logits)
    paired: bool = False  # the generator needs real logits, as many as fake ones


def non_saturating(real: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating loss, binary cross-entropy (Goodfellow et al. 2014, arXiv 1406.2661)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss (Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def least_squares(real: Tensor, fake: Tensor) -> Tensor:
    """LSGAN: squared distances to 1 and 0 (Mao et al. 2017, arXiv 1611.04076)."""
    return (real - 1).square().mean() + fake.square().mean()


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """WGAN: the negative of the critic's estimate (Arjovsky et al. 2017, arXiv 1701.07875)."""
    return fake.mean() - real.mean()


def relativistic(real: Tensor, fake: Tensor) -> Tensor:
    """Relativistic pairing, RpGAN (Jolicoeur-Martineau 2019, arXiv 1807.00734)."""
    return F.softplus(fake - real).mean()


def _entropy(fake: Tensor, _real: Tensor | None = None) -> Tensor:
    return F.softplus(-fake).mean()


def _minus_mean(fake: Tensor, _real: Tensor | None = None) -> Tensor:
    return -fake.mean()


def _distance(fake: Tensor, _real: Tensor | None = None) -> Tensor:
    return (fake - 1).square().mean()


LOSSES = {
    'non-saturating': AdversarialLoss(non_saturating, _entropy),
    'hinge': AdversarialLoss(hinge, _minus_mean),
    'least-squares': AdversarialLoss(least_squares, _distance),
    'wasserstein': AdversarialLoss(wasserstein, _minus_mean),
    'relativistic': AdversarialLoss(relativistic, relativistic, paired=True),  # roles exchanged
}
