"""Two sets of images compared by their features: Frechet distance (FID), KID, precision and recall.

`compare` is what the command line and Python call, and `compare_features` is what it and the metric
of mmengine call, which has the features of the generated images already.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from torch import Tensor

from sbzoo.errors import UserError
from sbzoo.metrics.extractors import build_extractor, extractor_name, feature_dims
from sbzoo.metrics.extractors.base import Extractor, frechet_name, kid_name
from sbzoo.metrics.features import (
    BATCH,
    Features,
    Source,
    cached_features,
    extract_features,
    open_source,
)
from sbzoo.metrics.functional.frechet import frechet_infinity
from sbzoo.metrics.functional.kid import MIN_IMAGES, kernel_inception_distance
from sbzoo.metrics.functional.prdc import NEAREST_K, compute_prdc
from sbzoo.metrics.statistics import FeatureStatistics

PRDC = 'precision', 'recall', 'density', 'coverage'
INFINITY_MIN_IMAGES = 20  # the smallest subset, a tenth, is of two


@dataclass(frozen=True)
class Comparison:
    """Metrics by name, what they depend on beside the images, and what to be wary of."""

    metrics: dict[str, float]
    protocol: dict[str, str]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = {name: f'{value:.4f}' for name, value in self.metrics.items()} | self.protocol
        width = max(map(len, rows))
        lines = [f'{name:{width}}  {value}' for name, value in rows.items()]
        return '\n'.join([*lines, *(f'warning: {warning}' for warning in self.warnings)])


def compare(
    real: str | Path | dict | Source,
    fake: str | Path | dict | Source | None = None,
    *,
    extractor: str = 'inception',
    weights: str | Path | None = None,
    kid: bool = False,
    prdc: bool = False,
    infinity: bool = False,
    save_stats: str | Path | None = None,
    batch_size: int = BATCH,
    workers: int = 0,
) -> Comparison:
    """Compare two sets of images; the features of `real` are kept in the cache.

    Args:
        real: A folder, an .npz file of statistics or images, the config of a data set, or what
            `open_source` makes of these.
        fake: The generated images, likewise; None only saves the statistics of `real`.
        extractor: `inception` (FID), `inception:64`, `timm:MODEL` or `digits`.
        weights: The file of its weights, where it is not the usual one.
        kid: Whether to compute KID, which is unbiased for few images too.
        prdc: Whether to compute precision, recall, density and coverage.
        infinity: Whether to extrapolate the Frechet distance to infinitely many fakes.
        save_stats: The .npz file to write the statistics of `real` to.
        batch_size: Images at once.
        workers: Processes that read image files.

    Returns:
        The comparison; of several ranks, which share the images, the first has the metrics.

    Raises:
        UserError: An input is missing, broken, or not what the options need.
    """
    asked = dict(kid=kid, prdc=prdc, infinity=infinity)
    _check_output(fake, save_stats)
    spec = extractor_name(extractor)
    sources = [open_source(source) for source in (real, fake) if source is not None]
    _check_images(sources, **asked)
    network = _build_network(spec, weights, sources)
    loading = dict(batch_size=batch_size, workers=workers)
    reals = cached_features(sources[0], network, keep=kid or prdc, **loading)
    if save_stats and is_main_process():
        reals.statistics.save(save_stats)
    protocol = dict(extractor=network.protocol if network else spec, real=_count(real, reals))
    if fake is None:
        return Comparison({}, protocol)
    fakes = extract_features(sources[1], network, keep=kid or prdc or infinity, **loading)
    protocol['fake'] = _count(fake, fakes)
    if not is_main_process():
        return Comparison({}, protocol)
    metrics, warnings = compare_features(spec, reals, fakes, **asked)
    return Comparison(metrics, protocol, warnings)


def compare_features(
    spec: str,
    real: Features,
    fake: Features,
    *,
    kid: bool = False,
    prdc: bool = False,
    infinity: bool = False,
    strict: bool = True,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Compare the features of two sets of images.

    Args:
        spec: The name of their extractor, by which metrics are named.
        real: Of the real images.
        fake: Of the generated images.
        kid: Whether to compute KID; needs each feature of both, as `prdc` does.
        prdc: Whether to compute precision, recall, density and coverage.
        infinity: Whether to extrapolate the Frechet distance; needs each feature of `fake`.
        strict: False leaves out, with a warning, KID and PRDC where there are too few images.

    Returns:
        Metrics by name, and warnings.

    Raises:
        UserError: The statistics are of different features, or there are too few images.
    """
    name, warnings = frechet_name(spec), [small_sample(spec, real.statistics, fake.statistics)]
    if not strict and (kid or prdc):
        n = min(len(real.each), len(fake.each))
        kid, prdc = kid and n >= MIN_IMAGES, prdc and n > NEAREST_K
        warnings.append(_too_few(spec, n))
    metrics = {name: real.statistics.frechet_distance(fake.statistics)}
    if infinity:
        metrics[f'{name}-infinity'] = fid_infinity(real.statistics, fake.each)
    if kid:
        mean, spread = kernel_inception_distance(real.each, fake.each)
        metrics |= {kid_name(spec): mean, f'{kid_name(spec)}-std': spread}
    if prdc:
        metrics |= compute_prdc(real.each, fake.each)
    return metrics, tuple(warning for warning in warnings if warning)


def fid_infinity(real: FeatureStatistics, fake: Tensor, points: int = 15) -> float:
    """FID-infinity: the Frechet distance of infinitely many fakes.

    Chong and Forsyth 2020, arXiv 1911.07023.

    Args:
        real: Statistics of the real images.
        fake: Features [N, d].
        points: Subsets, of N / 10 to N features, but of 2 d or more where N has so many twice:
            with fewer the bias is no line yet.

    Raises:
        UserError: There are fewer than `INFINITY_MIN_IMAGES` fakes.
    """
    n, d = fake.shape
    if n < INFINITY_MIN_IMAGES:
        raise UserError(
            f'{n} images: --infinity takes {INFINITY_MIN_IMAGES} generated ones or more'
        )
    fewest = max(n // 10, min(2 * d, n // 2), 2)
    generator = torch.Generator().manual_seed(0)
    distances = {}
    for size in torch.linspace(fewest, n, points).long().unique().tolist():
        subset = fake[torch.randperm(n, generator=generator)[:size]]
        sample = Features.of(subset, real.extractor)
        distances[size] = real.frechet_distance(sample.statistics)
    return frechet_infinity(distances)


def small_sample(spec: str, *sets: FeatureStatistics) -> str | None:
    """A warning where a set has no more images than features have dimensions, or None."""
    n = min((s.n for s in sets if s.n is not None), default=None)
    d = sets[0].d
    if n is None or n > d:
        return None
    return (
        f'{frechet_name(spec)} of {n:,} images: the covariance of {d:,} dimensions has rank '
        f'{n - 1:,}, and the distance is far too large; give more than {d:,} images, or take '
        'KID'
    )


def _too_few(spec: str, n: int) -> str | None:
    """Which metrics n images are too few for, or None."""
    least = {kid_name(spec): MIN_IMAGES, ', '.join(PRDC): NEAREST_K + 1}
    missing = [f'{name} (from {m} images on)' for name, m in least.items() if n < m]
    return f'{n} images, so without {" and ".join(missing)}' if missing else None


def _check_output(fake: object, save_stats: str | Path | None) -> None:
    """Check that there is something to do, and a place for it, before any work."""
    if fake is None and not save_stats:
        raise UserError('give FAKE to compare REAL with, or --save-stats OUT.npz')
    if save_stats and Path(save_stats).suffix != '.npz':
        raise UserError(f'{save_stats}: statistics are written to a file named .npz')
    if save_stats and Path(save_stats).exists():
        raise UserError(f'{save_stats}: exists already')


def _check_images(sources: list[Source], **asked: bool) -> None:
    """Check that there are images for what is not told from statistics."""
    for option in (option for option, is_asked in asked.items() if is_asked):
        if len(sources) < 2:
            raise UserError(f'--{option} compares two sets of images: give FAKE')
        for source in sources[1:] if option == 'infinity' else sources:
            if isinstance(source, FeatureStatistics):
                raise UserError(
                    f'--{option} needs images of both, and statistics are none: {source.path}'
                )


def _build_network(
    spec: str, weights: str | Path | None, sources: list[Source]
) -> Extractor | None:
    """The extractor, unless all sources are statistics; these are checked to be of its features."""
    statistics = [source for source in sources if isinstance(source, FeatureStatistics)]
    for source in statistics:  # before weights are downloaded
        source.require(feature_dims(spec) or source.d, spec)
    if len(statistics) == len(sources):
        return None
    network = build_extractor(spec, weights)
    for source in statistics:
        source.require(network.d, spec)
    return network


def _count(source: object, features: Features) -> str:
    """What a set was, and how large."""
    n = features.statistics.n
    return f'{source}, {"number unknown" if n is None else f"{n:,} images"}'
