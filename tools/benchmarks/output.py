"""Where the lines of a benchmark go, and what is said at its end."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from pathlib import Path

from sbzoo.paths import CARDS
from sbzoo.report.tables import ResultTable, body

RESULTS = CARDS / 'results'


def add_out(parser: argparse.ArgumentParser, file: str) -> None:
    """The option that says where the lines go."""
    add = parser.add_argument
    add('--out', type=Path, default=RESULTS / file, metavar='FILE', help=f'default: {file}')


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
