"""k-NN precision and recall, density and coverage (PRDC): fidelity apart from diversity."""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.errors import UserError

NEAREST_K = 5  # neighbours
CHUNK = 1024  # features whose distances to all others are held at once
ROUNDING = 1e-12  # of a squared distance, as a part of both squared norms: more than float64 leaves


def compute_prdc(real: Tensor, fake: Tensor, k: int = NEAREST_K) -> dict[str, float]:
    """Improved precision and recall, density and coverage.

    Precision and recall: Kynkaanniemi et al. 2019, arXiv 1904.06991; density and coverage: Naeem et
    al. 2020, arXiv 2002.09797.

    A feature's ball reaches to its k-th nearest neighbour in its own set. Precision: the fraction
    of fakes in some ball of a real; recall: of reals in some ball of a fake. Density: in how
    many balls of reals a fake is, over k; coverage: the fraction of the balls of reals with a fake.
    As their authors have it, balls are closed for the first two and open for the others, so that
    density of a set with itself is 1, unless features are equally far from one. Where a set has
    more than k copies of a feature, their open balls are empty.

    Args:
        real: Features [N, d].
        fake: Features [M, d].
        k: Neighbours; one number for all four, so that they see the same balls.

    Raises:
        UserError: A set has no k + 1 features.
    """
    if min(len(real), len(fake)) <= k:
        raise UserError(f'{k} neighbours in {len(real)} and {len(fake)} images; more are needed')
    centre = real.double().mean(0)  # distances are differences of squares, which it keeps small
    real, fake = real.double() - centre, fake.double() - centre
    real_radius, fake_radius = _squared_radii(real, k), _squared_radii(fake, k)
    real_norm, fake_norm = real.square().sum(1), fake.square().sum(1)
    balls, recalled = 0, 0
    covered = torch.zeros(len(real), dtype=torch.bool)
    precise = torch.zeros(len(fake), dtype=torch.bool)
    for rows in torch.arange(len(real)).split(CHUNK):
        distance = torch.cdist(real[rows], fake).square()
        rounding = ROUNDING * (real_norm[rows, None] + fake_norm)
        inside = distance + rounding < real_radius[rows, None]
        balls += inside.sum().item()
        covered[rows] = inside.any(1)
        distance -= rounding
        precise |= (distance <= real_radius[rows, None]).any(0)
        recalled += (distance <= fake_radius).any(1).sum().item()
    return dict(
        precision=precise.double().mean().item(),
        recall=recalled / len(real),
        density=balls / (k * len(fake)),
        coverage=covered.double().mean().item(),
    )


def _squared_radii(features: Tensor, k: int) -> Tensor:
    """The squared distance of each to its k-th nearest neighbour, [N]."""
    chunks = (torch.cdist(rows, features) for rows in features.split(CHUNK))
    nearest = [c.kthvalue(k + 1, dim=1).values for c in chunks]  # the first is itself
    return torch.cat(nearest).square()
