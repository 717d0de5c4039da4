"""Lines on record: what a benchmark measured, with the machine, the versions and the command."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Hashable, Iterable
from datetime import date
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from sbzoo.files import write
from sbzoo.paths import CARDS
from sbzoo.report.measurements import Measurement
from sbzoo.report.tables import ResultTable, body

RESULTS = CARDS / 'results'


def add_out(parser: argparse.ArgumentParser, file: str) -> None:
    """The option that says where the lines go."""
    add = parser.add_argument
    add('--out', type=Path, default=RESULTS / file, metavar='FILE', help=f'default: {file}')


def measurement(
    row: dict[str, Any],
    figures: dict[str, float],
    protocol: dict[str, Any],
    peers: Iterable[str] = (),
    threads: int | None = None,
) -> Measurement:
    """Figures of now and here.

    Args:
        row: What was measured; it identifies the line, together with the machine.
        figures: What came out.
        protocol: How.
        peers: Packages whose versions matter, beside torch.
        threads: In use; those of torch by default.
    """
    machine = dict(
        processor=processor(),
        cores=os.cpu_count(),
        threads=threads or torch.get_num_threads(),
        system=f'{platform.system()} {platform.machine()}',
    )
    figures = {name: float(f'{value:.5g}') for name, value in figures.items()}
    command = shlex.join(['python', 'tools/bench.py', *sys.argv[1:]])
    today = date.today().isoformat()
    return Measurement(row, figures, protocol, machine, versions(peers), today, command)


def versions(peers: Iterable[str] = ()) -> dict[str, str]:
    """Those of this library, of torch and of its peers."""
    sources = _sources()  # mmdet may come from mmdet or from onedl-mmdetection
    return {n: version(sources.get(n, [n])[0]) for n in ('sbzoo', 'torch', *peers)}


_sources = cache(packages_distributions)  # which reads a file of each package


def processor() -> str:
    """The model name of the processor."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.processor() or platform.machine())


def record(path: Path, measurements: Iterable[Measurement]) -> None:
    """Write measurements to a file; those of the same rows on the same machine are replaced."""
    write_lines(
        path,
        [m._asdict() for m in measurements],
        lambda line: json.dumps([line['row'], line['machine']], sort_keys=True),
    )


def write_lines(path: Path, lines: Iterable[dict], identity: Callable[[dict], Hashable]) -> None:
    """Put lines into a file, atomically; those that `identity` maps to the same are replaced."""
    old = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    kept = {identity(line): line for line in (*map(json.loads, old), *lines)}
    text = ''.join(json.dumps(line, sort_keys=True) + '\n' for line in kept.values())
    write(path, text.encode())


def show(path: Path, tables: Iterable[ResultTable]) -> None:
    """Print tables, where their lines are, and the next command."""
    for table in tables:
        print(f'\n{table.note}\n\n{body(table)}')
    close(path)


def close(path: Path) -> None:
    """Say where the lines of a benchmark are, and the next command."""
    print(f'\nlines:   {path}')
    print(f'next:    python tools/bench.py tables{_elsewhere(path.parent)}')


def _elsewhere(folder: Path) -> str:
    return '' if folder.resolve() == RESULTS.resolve() else f' --results {shlex.quote(str(folder))}'
