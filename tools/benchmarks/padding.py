"""Time of norms that leave a quarter of padding out, beside the same norms of full maps."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product

from torch import nn

from benchmarks import output
from benchmarks.clocks import Call, keep_freed_memory, milliseconds
from benchmarks.norm import FORMATS, Maps, steps
from sbzoo import records
from sbzoo.norm import Norm
from sbzoo.norm.padding import Pictures
from sbzoo.records import Measurement
from sbzoo.report.measurements import padded_norms
from sbzoo.tools.cli import positive_int

SPECS, SHAPE = ('gn', 'in', 'ln', 'hybrid', 'sn', 'bn'), (2, 256, 100, 168)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often."""
    add = parser.add_argument
    add('--rounds', type=positive_int, default=25, metavar='N', help='medians are of so many')
    output.add_out(parser, 'padding.jsonl')


def run(args: argparse.Namespace) -> None:
    """Time each norm both ways, in turn."""
    keep_freed_memory()
    measured = [m for name in FORMATS for m in _measure(name, args.rounds)]
    records.record(args.out, measured)
    output.show(args.out, padded_norms(dict(padding=measured)))


def _measure(name: str, rounds: int) -> list[Measurement]:
    maps = Maps(SHAPE, name)
    times = milliseconds(padded_steps(maps), rounds)
    return measurements(maps, times, rounds)


def padded_steps(maps: Maps) -> dict[tuple[str, bool], Call]:
    """Forward and backward of each norm, on full maps and on padded ones."""
    kinds = product(SPECS, (False, True))
    return steps({(spec, padded): _layer(spec, maps.shape, padded) for spec, padded in kinds}, maps)


def _layer(spec: str, shape: tuple[int, ...], padded: bool) -> nn.Module:
    """A norm, of two pictures with a quarter of padding: one beside it and one below."""
    norm, (height, width) = Norm(shape[1], spec), shape[2:]
    if padded:
        sizes = [(height, 3 * width // 4), (3 * height // 4, width)]
        norm.pictures = Pictures(sizes, (height, width))
    return norm


def measurements(
    maps: Maps, times: Mapping[tuple[str, bool], float], rounds: int
) -> list[Measurement]:
    """The milliseconds of `padded_steps`, norm by norm."""
    return [
        records.measurement(
            dict(layer=spec, **maps.row),
            dict(full_ms=times[spec, False], padded_ms=times[spec, True]),
            dict(dtype='float32', rounds=rounds),
        )
        for spec in dict.fromkeys(spec for spec, _ in times)
    ]
