"""Time of each norm layer, forward and backward, beside torch's own layers and a copy."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import output
from benchmarks.clocks import CPU, Call, Name, keep_freed_memory, milliseconds
from sbzoo import records
from sbzoo.norm import build_norm
from sbzoo.records import Measurement
from sbzoo.report.measurements import norm_times
from sbzoo.tools.cli import positive_int

SHAPES = (2, 256, 100, 168), (2, 64, 200, 336), (2, 512, 25, 42)
FORMATS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
SPECS = (
    'bn', 'gn32', 'in', 'ln', 'rms', 'hybrid', 'hybrid(bn,gn32)', 'sn', 'ibn', 'fbn', 'syncbn',
    'ghost1', 'bgn', 'brn', 'mabn', 'frn', 'evos0',
)  # fmt: skip


class Copy(nn.Module):
    """A plain copy, forward and backward: what any layer pays for its output and its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def peers(channels: int) -> dict[str, nn.Module]:
    """What torch has, and two of them after one another, which a hybrid replaces."""
    batch, group = nn.BatchNorm2d(channels), nn.GroupNorm(32, channels)
    return {
        'copy': Copy(),
        'BatchNorm2d': batch,
        'GroupNorm(32)': group,
        'BatchNorm2d, GroupNorm(32)': nn.Sequential(batch, group),
        'InstanceNorm2d': nn.InstanceNorm2d(channels, affine=True),
        'GroupNorm(C)': nn.GroupNorm(channels, channels),
        'GroupNorm(1)': nn.GroupNorm(1, channels),
        'GroupNorm(32), ReLU': nn.Sequential(group, nn.ReLU(inplace=True)),
    }


def layers(channels: int, specs: list[str]) -> dict[str, nn.Module]:
    """The norms of this library, and two of them with the ReLU in the same pass and beside it."""
    hybrid = build_norm('hybrid', channels)
    return {spec: build_norm(spec, channels) for spec in specs} | {
        'gn32 with ReLU': build_norm('gn32', channels, relu=True),
        'hybrid, ReLU': nn.Sequential(hybrid, nn.ReLU(inplace=True)),
        'hybrid with ReLU': build_norm('hybrid', channels, relu=True),
    }


# All norms are one class: beyond eight of them torch would give up on it, and run it uncompiled.
UNLIMITED = dict(recompile_limit=1000, fail_on_recompile_limit_hit=True)


class Maps(NamedTuple):
    """What a norm is timed on."""

    shape: tuple[int, ...]
    memory_format: str
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    @property
    def row(self) -> dict[str, Any]:
        """As it is on record."""
        return dict(shape=list(self.shape), memory_format=self.memory_format)

    def random(self) -> Tensor:
        """Random maps [N, C, H, W]."""
        maps = torch.randn(self.shape, dtype=self.dtype, device=self.device)
        return maps.to(memory_format=FORMATS[self.memory_format])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which norms, and how often."""
    add = parser.add_argument
    add('--norms', nargs='+', default=list(SPECS), metavar='SPEC')
    add('--rounds', type=positive_int, default=15, metavar='N', help='medians are of so many')
    add('--compile', action='store_true', help='by torch.compile too (minutes; needs g++)')
    output.add_out(parser, 'norm.jsonl')


def run(args: argparse.Namespace) -> None:
    """Time shape by shape, put each on record, and print a table of all."""
    keep_freed_memory()
    measured = []
    for shape, name in product(SHAPES, FORMATS):
        found = _measure(shape, name, args)
        records.record(args.out, found)  # whatever becomes of the next shape
        measured += found
    output.show(args.out, norm_times(dict(norm=measured)))


def _measure(shape: tuple[int, ...], name: str, args: argparse.Namespace) -> list[Measurement]:
    models = peers(shape[1]) | layers(shape[1], args.norms)
    maps = Maps(shape, name)
    times = {False: milliseconds(steps(models, maps), args.rounds)}
    if args.compile:
        with compiled(models) as made:
            times[True] = milliseconds(steps(made, maps), args.rounds)
    protocol = dict(dtype='float32', rounds=args.rounds)
    return [
        records.measurement(
            dict(layer=layer, **maps.row, compiled=compiled),
            dict(ms=ms),
            protocol,
        )
        for compiled, by_layer in times.items()
        for layer, ms in by_layer.items()
    ]


@contextmanager
def compiled(
    layers: Mapping[Name, nn.Module], backend: str = 'inductor'
) -> Iterator[dict[Name, nn.Module]]:
    """Within, the same layers by torch.compile, whatever their number."""
    with torch._dynamo.config.patch(UNLIMITED):
        yield {name: torch.compile(layer, backend=backend) for name, layer in layers.items()}
    torch.compiler.reset()


def steps(layers: Mapping[Name, nn.Module], maps: Maps) -> dict[Name, Call]:
    """Forward and backward of each layer, which is brought to the device and type of the maps."""
    x, grad = maps.random(), maps.random()
    return {name: step(layer.to(x.device, x.dtype), x, grad) for name, layer in layers.items()}


def step(layer: nn.Module, x: Tensor, grad: Tensor) -> Call:
    """Forward and backward, with gradients of x and of the parameters."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def both() -> None:
        torch.autograd.grad(layer(x), inputs, grad)

    return both
