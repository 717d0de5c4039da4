"""What tools/fid.py does: two sets of images to distances and their protocol."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from sbzoo.errors import UserError
from sbzoo.metrics.compare import distance, distance_at_infinity, kernel, small_sample
from sbzoo.metrics.extractors.base import distance_name
from sbzoo.metrics.extractors.timm import build_extractor, canonical, dims
from sbzoo.metrics.features import Features, Source, measure, measure_once
from sbzoo.metrics.functional.prdc import neighbour_metrics
from sbzoo.metrics.statistics import FeatureStatistics


def evaluate(args: argparse.Namespace, open_source: Callable[[str], Source]) -> dict:
    """Compare REAL and FAKE, and keep the statistics of REAL, as the options say.

    Args:
        args: The options of the tool.
        open_source: From REAL or FAKE, as they were typed, to images or statistics.

    Returns:
        `metrics` by name, `protocol`, and `warning`, a line or None.

    Raises:
        UserError: An input is missing, broken, or not what the options need.
    """
    check_options(args)
    spec = canonical(f'{args.extractor}:{args.dims}' if args.dims else args.extractor)
    sources = [open_source(path) for path in (args.real, args.fake) if path]
    check_statistics(sources, spec, dims(spec))
    extractor = None
    if not all(isinstance(source, FeatureStatistics) for source in sources):
        extractor = build_extractor(spec, args.weights)
        check_statistics(sources, spec, extractor.d)
    options = dict(batch=args.batch_size, workers=args.num_workers)
    pairs = args.kid or args.prdc
    real = measure_once(sources[0], extractor, keep=pairs, **options)
    if args.save_stats:
        real.statistics.save(args.save_stats)
    protocol = dict(extractor=extractor.protocol if extractor else spec)
    protocol['real'] = _count(args.real, real)
    if not args.fake:
        return dict(metrics={}, protocol=protocol, warning=None)
    fake = measure(sources[1], extractor, keep=pairs or args.infinity, **options)
    protocol['fake'] = _count(args.fake, fake)
    warning = small_sample(spec, real.statistics, fake.statistics)
    return dict(metrics=metrics(args, spec, real, fake), protocol=protocol, warning=warning)


def metrics(
    args: argparse.Namespace, spec: str, real: Features, fake: Features
) -> dict[str, float]:
    """Every number that the options ask for."""
    found = {distance_name(spec): distance(real, fake)}
    if args.infinity:
        name = f'{distance_name(spec)}-infinity'
        found[name] = distance_at_infinity(real.statistics, fake.each)
    if args.kid:
        found |= kernel(spec, real.each, fake.each)
    if args.prdc:
        found |= neighbour_metrics(real.each, fake.each)
    return found


def check_options(args: argparse.Namespace) -> None:
    """Check that the options and the inputs go together, before any work.

    Raises:
        UserError: They do not.
    """
    if not args.fake and not args.save_stats:
        raise UserError('give FAKE to compare REAL with, or --save-stats OUT.npz')
    if args.save_stats and Path(args.save_stats).suffix != '.npz':
        raise UserError(f'{args.save_stats}: statistics are written to a file named .npz')
    if args.save_stats and Path(args.save_stats).exists():
        raise UserError(f'{args.save_stats}: exists already')
    need = {'--kid': (args.kid, 2), '--prdc': (args.prdc, 2), '--infinity': (args.infinity, 1)}
    for option, (given, count) in need.items():
        for path in (args.fake, args.real)[:count] if given else ():
            if path is None or path.endswith('.npz'):
                raise UserError(f'{option} needs images of both, and statistics are none: {path}')


def check_statistics(sources: list[Source], spec: str, d: int | None) -> None:
    """Check that files of statistics are of features of this extractor and of `d` dimensions.

    Raises:
        UserError: They are of others.
    """
    for source in sources:
        if isinstance(source, FeatureStatistics):
            source.require(d or source.d, spec)


def show(report: dict) -> None:
    """Print the numbers as a table with their protocol, and the warning."""
    cells = {name: f'{value:.4f}' for name, value in report['metrics'].items()}
    rows = cells | report['protocol']
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f'{name:{width}}  {value}')
    if report['warning']:
        print(f'warning: {report["warning"]}')


def _count(path: str, features: Features) -> str:
    """What a set was, and how large."""
    n = features.statistics.n
    return f'{path}, {"number unknown" if n is None else f"{n:,} images"}'
