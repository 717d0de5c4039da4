"""Where the lines of a benchmark go, and what is said at its end."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from sbzoo.paths import CARDS
from sbzoo.report.tables import ResultTable, body

RESULTS = CARDS / 'results'
T = TypeVar('T')


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


def read_lines(path: Path) -> list[dict]:
    """The lines of a file of results; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_line(path: Path, result: dict) -> None:
    """Put a line behind those of a file of results."""
    with path.open('a') as file:
        print(json.dumps(result), file=file)


def line_of(error: Exception) -> str:
    """An error in a line, without the folders, which differ from machine to machine."""
    text = re.sub(r'[^\s\'"]+/', '', ' '.join(str(error).split()))
    return f'{type(error).__name__}: {text}'[:160]


def in_turn(groups: Iterable[Iterable[T]]) -> list[T]:
    """The first of each group, then the second of each: a part of them is of all kinds."""
    return [x for turn in zip_longest(*groups) for x in turn if x is not None]


def _elsewhere(folder: Path) -> str:
    return '' if folder.resolve() == RESULTS.resolve() else f' --results {shlex.quote(str(folder))}'
