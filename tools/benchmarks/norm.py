"""Time of each norm layer, forward and backward, beside torch's own layers and a copy."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks import records
from sbzoo.norm import build_norm
from sbzoo.report.measurements import Measurement, norm_times
from sbzoo.tools.cli import positive_int

SHAPES = (2, 256, 100, 168), (2, 64, 200, 336), (2, 512, 25, 42)
FORMATS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
SPECS = (
    'bn', 'gn32', 'in', 'ln', 'rms', 'hybrid', 'hybrid(bn,gn32)', 'sn', 'ibn', 'fbn', 'syncbn',
    'ghost1', 'bgn', 'brn', 'mabn', 'frn', 'evos0',
)  # fmt: skip
Step = Callable[[], None]


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which norms, and how often."""
    add = parser.add_argument
    add('--norms', nargs='+', default=list(SPECS), metavar='SPEC')
    add('--rounds', type=positive_int, default=15, metavar='N', help='medians are of so many')
    add('--compile', action='store_true', help='by torch.compile too (minutes; needs g++)')
    records.add_out(parser, 'norm.jsonl')


def run(args: argparse.Namespace) -> None:
    """Time shape by shape, put each on record, and print a table of all."""
    keep_freed_memory()
    measured = []
    for shape, name in product(SHAPES, FORMATS):
        found = _measure(shape, name, args)
        records.record(args.out, found)  # whatever becomes of the next shape
        measured += found
    records.show(args.out, norm_times(dict(norm=measured)))


def _measure(shape: tuple[int, ...], name: str, args: argparse.Namespace) -> list[Measurement]:
    models = peers(shape[1]) | layers(shape[1], args.norms)
    x, grad = (torch.randn(shape).to(memory_format=FORMATS[name]) for _ in range(2))
    steps = {n: step(layer, x, grad) for n, layer in models.items()}
    times = {False: milliseconds(steps, args.rounds)}
    if args.compile:
        steps = {n: step(torch.compile(layer), x, grad) for n, layer in models.items()}
        with torch._dynamo.config.patch(UNLIMITED):
            times[True] = milliseconds(steps, args.rounds)
        torch.compiler.reset()
    protocol = dict(dtype='float32', rounds=args.rounds)
    return [
        records.measurement(
            dict(layer=layer, shape=list(shape), memory_format=name, compiled=compiled),
            dict(ms=ms),
            protocol,
        )
        for compiled, by_layer in times.items()
        for layer, ms in by_layer.items()
    ]


def keep_freed_memory() -> None:
    """As in a network, where a layer does not pay for the page faults of every tensor anew.

    The C library of Linux gives memory back beyond twice the largest block under 32 MB that was
    freed so far, so that beside the small tensors of one layer alone nearly nothing is kept.
    """
    torch.empty(30 * 2**18)


def step(layer: nn.Module, x: Tensor, grad: Tensor) -> Step:
    """Forward and backward, with gradients of x and of the parameters."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def both() -> None:
        torch.autograd.grad(layer(x), inputs, grad)

    return both


def milliseconds(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """The median time of each; they take turns, so that a drift of the machine meets them all."""
    for both in steps.values():
        both()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in track(range(rounds), 'rounds', transient=True):
        for name, both in steps.items():
            times[name].append(_once(both))
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}


def _once(both: Step, least: float = 0.005) -> float:
    """Seconds of one call, from as many as `least` seconds hold."""
    calls, start = 0, time.perf_counter()
    while True:
        both()
        calls += 1
        passed = time.perf_counter() - start
        if passed > least:
            return passed / calls
