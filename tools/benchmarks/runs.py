"""Training runs on the digit scenes, for the benchmarks that compare them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks import output
from sbzoo import records
from sbzoo.errors import UserError
from sbzoo.paths import ROOT
from sbzoo.tools.cli import positive_int, seed


def add_arguments(parser: argparse.ArgumentParser, name: str, file: str) -> None:
    """Which seeds, how many side by side, and where to."""
    add = parser.add_argument
    add('--seeds', nargs='+', type=seed, default=(0, 1, 2), metavar='SEED')
    add('--jobs', type=positive_int, default=2, help='runs side by side, a thread each')
    add('--dir', type=Path, default=ROOT / 'work_dirs' / name, help='runs that are there are kept')
    output.add_out(parser, file)


def run_all(run: Callable[..., Any], grid: Iterable[tuple], jobs: int) -> list:
    """Call `run` with each entry of `grid`, several side by side, and return what they return.

    Raises:
        UserError: Some have failed, when all others are done.
    """
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run, *entry) for entry in grid]
        try:
            errors = [each.exception() for each in track(running, 'runs')]
        finally:
            pool.shutdown(cancel_futures=True)  # where this is interrupted
    failed = [error for error in errors if isinstance(error, UserError)]
    results = [each.result() for each in running if each.exception() not in failed]
    if failed:
        raise UserError('\n'.join(map(str, failed)))
    return results


def result_of(work_dir: Path, tool: str, *arguments: object, ranks: int = 1) -> dict:
    """The result of a tool that writes one to `work_dir`; it runs unless that is there."""
    result = work_dir / 'result.json'
    if not result.exists():
        call(work_dir, tool, *arguments, '--work-dir', work_dir, ranks=ranks)
    return json.loads(result.read_text())


def convert(out: Path, *arguments: object) -> None:
    """Convert a checkpoint to another norm, unless that is there; the log is in a folder beside."""
    if not out.exists():
        call(out.with_suffix(''), 'convert', *arguments, '--out', out)


def call(folder: Path, tool: str, *arguments: object, ranks: int = 1) -> None:
    """Run a tool in processes of its own, with a thread each and its log in `folder`.

    Raises:
        UserError: It failed; the message names the log.
    """
    command = [f'tools/{tool}.py', *map(str, arguments)]
    if ranks > 1:
        torchrun = '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}'
        command = [*torchrun, *command, '--launcher', 'pytorch']
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'log.txt', 'a') as log:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | dict(OMP_NUM_THREADS='1'),
            stdout=log,
            stderr=log,
        )
    if done.returncode:
        raise UserError(f'{folder.name} failed; its last lines are in {log.name}')


def record(path: Path, results: list[dict]) -> None:
    """Put a line for each run on record, in the place of the same run's on the same machine."""
    records.write_lines(path, results, identity)
    output.close(path)


def identity(result: dict) -> tuple:
    """What tells a run from the others of its file."""
    start = result.get('start'), result.get('batch')
    return norm_of(result), result['images_a_step'], *start, result['seed'], result['machine']


def norm_of(result: dict) -> str:
    """The norm that a run names, or its config; whether that holds the batch size or not."""
    return result.get('norm') or result['config'].split('_')[1]


def ap(result: dict) -> float:
    """The box AP of a run."""
    return result['metrics']['coco/bbox_mAP']
