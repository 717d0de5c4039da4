"""How far generated images are from real ones, by the features of both."""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.errors import UserError
from sbzoo.metrics.extractors.base import distance_name, kernel_name
from sbzoo.metrics.features import Features
from sbzoo.metrics.functional.frechet import frechet_distance, frechet_infinity
from sbzoo.metrics.functional.kid import FEWEST, kernel_distance
from sbzoo.metrics.functional.prdc import K, neighbour_metrics
from sbzoo.metrics.statistics import FeatureStatistics

NEIGHBOURS = 'precision', 'recall', 'density', 'coverage'
FEWEST_AT_INFINITY = 20  # the smallest subset, a tenth, is of two


def distance(real: Features, fake: Features) -> float:
    """The Frechet distance.

    Raises:
        UserError: The statistics are of different features.
    """
    one, other = real.statistics, fake.statistics
    one.require(other.d, other.extractor)
    return frechet_distance(one.mean, one.cov, other.mean, other.cov)


def kernel(spec: str, real: Tensor, fake: Tensor) -> dict[str, float]:
    """Mean and spread of the kernel distance over 100 subsets, under their names."""
    mean, spread = kernel_distance(real, fake)
    return {kernel_name(spec): mean, f'{kernel_name(spec)}-std': spread}


def of_each(spec: str, real: Tensor, fake: Tensor) -> dict[str, float]:
    """The metrics that take each feature; without those that `too_few` names."""
    n = min(len(real), len(fake))
    found = kernel(spec, real, fake) if n >= FEWEST else {}
    return found | (neighbour_metrics(real, fake) if n > K else {})


def too_few(spec: str, real: Tensor, fake: Tensor) -> str | None:
    """Which metrics the smaller set has too few images for, or None."""
    n = min(len(real), len(fake))
    least = {kernel_name(spec): FEWEST, ', '.join(NEIGHBOURS): K + 1}
    missing = [f'{name} (from {m} images on)' for name, m in least.items() if n < m]
    return f'{n} images, so without {" and ".join(missing)}' if missing else None


def distance_at_infinity(real: FeatureStatistics, fake: Tensor, points: int = 15) -> float:
    """The Frechet distance that ever more fakes would have, from subsets of those there are.

    Args:
        real: Statistics of the real images.
        fake: Features [N, d].
        points: Subsets, of N / 10 to N features, but of 2 d or more where N has so many twice:
            with fewer the bias is no line yet.

    Raises:
        UserError: There are fewer than `FEWEST_AT_INFINITY` fakes.
    """
    n, d = fake.shape
    if n < FEWEST_AT_INFINITY:
        raise UserError(f'{n} images: --infinity takes {FEWEST_AT_INFINITY} generated ones or more')
    fewest = max(n // 10, min(2 * d, n // 2), 2)
    generator = torch.Generator().manual_seed(0)
    distances = {}
    for size in torch.linspace(fewest, n, points).long().unique().tolist():
        subset = fake[torch.randperm(n, generator=generator)[:size]]
        sample = Features.of(subset, real.extractor)
        distances[size] = distance(Features(real), sample)
    return frechet_infinity(distances)


def small_sample(spec: str, *sets: FeatureStatistics) -> str | None:
    """A warning where a set has no more images than features have dimensions, or None."""
    n = min((s.n for s in sets if s.n is not None), default=None)
    d = sets[0].d
    if n is None or n > d:
        return None
    return (
        f'{distance_name(spec)} of {n:,} images: the covariance of {d:,} dimensions has rank '
        f'{n - 1:,}, and the distance is far too large; give more than {d:,} images, or take '
        'the kernel distance'
    )
