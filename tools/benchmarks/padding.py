"""Time of norms that leave a quarter of padding out, beside the same norms of full maps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product

import torch
from torch import nn

from benchmarks import records
from benchmarks.norm import FORMATS, keep_freed_memory, milliseconds, step
from sbzoo.norm import Norm
from sbzoo.norm.padding import Pictures
from sbzoo.report.measurements import Measurement, padded_norms
from sbzoo.tools.cli import positive_int

SPECS, SHAPE = ('gn', 'in', 'ln', 'hybrid', 'sn', 'bn'), (2, 256, 100, 168)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often."""
    add = parser.add_argument
    add('--rounds', type=positive_int, default=25, metavar='N', help='medians are of so many')
    records.add_out(parser, 'padding.jsonl')


def run(args: argparse.Namespace) -> None:
    """Time each norm both ways, in turn."""
    keep_freed_memory()
    measured = [m for name in FORMATS for m in _measure(name, args.rounds)]
    records.record(args.out, measured)
    records.show(args.out, padded_norms(dict(padding=measured)))


def _measure(name: str, rounds: int) -> Sequence[Measurement]:
    x, grad = (torch.randn(SHAPE).to(memory_format=FORMATS[name]) for _ in range(2))
    layers = {
        (spec, padded): _layer(spec, padded) for spec, padded in product(SPECS, (False, True))
    }
    times = milliseconds({key: step(layer, x, grad) for key, layer in layers.items()}, rounds)
    return [
        records.measurement(
            dict(layer=spec, shape=list(SHAPE), memory_format=name),
            dict(full_ms=times[spec, False], padded_ms=times[spec, True]),
            dict(dtype='float32', rounds=rounds),
        )
        for spec in SPECS
    ]


def _layer(spec: str, padded: bool) -> nn.Module:
    """A norm, of two pictures with a quarter of padding: one beside it and one below."""
    norm, (height, width) = Norm(SHAPE[1], spec), SHAPE[2:]
    if padded:
        sizes = [(height, 3 * width // 4), (3 * height // 4, width)]
        norm.pictures = Pictures(sizes, (height, width))
    return norm
