"""Training runs on the digit scenes, for the benchmarks that compare them."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.progress import track

from sbzoo.errors import UserError
from sbzoo.paths import ROOT
from sbzoo.tools.cli import positive_int


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Which seeds, how many side by side, and where."""
    add = parser.add_argument
    add('--seeds', nargs='+', type=int, default=(0, 1, 2), metavar='SEED')
    add('--jobs', type=positive_int, default=2, help='runs side by side, a thread each')
    add('--dir', type=Path, default=ROOT / 'work_dirs' / name, help='runs that are there are kept')


def run_all(run: Callable[..., Any], grid: Iterable[tuple], jobs: int) -> list:
    """Call `run` with each entry of `grid`, several side by side, and return what they return."""
    grid = list(grid)
    with ThreadPoolExecutor(jobs) as pool:
        return list(track(pool.map(lambda entry: run(*entry), grid), 'runs', total=len(grid)))


def result_of(work_dir: Path, tool: str, *arguments: object) -> dict:
    """The result of a tool that writes one to `work_dir`; it runs unless that is there."""
    result = work_dir / 'result.json'
    if not result.exists():
        call(work_dir, tool, *arguments, '--work-dir', work_dir)
    return json.loads(result.read_text())


def call(folder: Path, tool: str, *arguments: object) -> None:
    """Run a tool in a process of its own, with one thread and its log in `folder`.

    Raises:
        UserError: It failed; the message names the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'log.txt', 'a') as log:
        done = subprocess.run(
            [sys.executable, f'tools/{tool}.py', *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | dict(OMP_NUM_THREADS='1'),
            stdout=log,
            stderr=log,
        )
    if done.returncode:
        raise UserError(f'{folder.name} failed; its last lines are in {log.name}')


def write_lines(path: Path, results: list[dict]) -> None:
    """Write a line for each run, and say where."""
    path.write_text(''.join(json.dumps(r, sort_keys=True) + '\n' for r in results))
    print(f'runs: {path}')


def cell(values: Sequence[float], decimals: int = 3) -> str:
    """Mean and spread (standard deviation) of one cell of a table, or what there is of them."""
    spread = f' ± {statistics.stdev(values):.{decimals}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{decimals}f}{spread}' if values else ''


def ap(result: dict) -> float:
    """The box AP of a run."""
    return result['metrics']['coco/bbox_mAP']
