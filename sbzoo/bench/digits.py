"""AP of RetinaNet on the digit scenes, norm by norm and batch by batch."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from rich.progress import track

from sbzoo.bench import ROOT
from sbzoo.engine.cli import positive_int
from sbzoo.errors import UserError

NORMS, BATCHES = ('bn', 'in', 'gn', 'ln', 'hybrid'), (1, 2, 16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    add = parser.add_argument
    add('--norms', nargs='+', default=NORMS, choices=NORMS, metavar='NORM')
    add('--batches', nargs='+', type=int, default=BATCHES, choices=BATCHES, metavar='N')
    add('--seeds', nargs='+', type=int, default=(0, 1, 2), metavar='SEED')
    add('--jobs', type=positive_int, default=2, help='runs side by side, a thread each')
    add('--dir', type=Path, default=ROOT / 'work_dirs/digits', help='runs that are there are kept')


def run(args: argparse.Namespace) -> None:
    """Train what is not trained yet, collect the results, print the table."""
    grid = list(product(args.seeds, args.batches, args.norms))
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = pool.map(lambda run: _train(args.dir, *run), grid)
        results = list(track(runs, 'runs', total=len(grid)))
    lines = '\n'.join(json.dumps(r, sort_keys=True) for r in results)
    (args.dir / 'results.jsonl').write_text(lines + '\n')
    print(table(results, args.norms, args.batches))
    print(f'runs: {args.dir / "results.jsonl"}')


def _train(folder: Path, seed: int, batch: int, norm: str) -> dict:
    """One training run in a process of its own; a run that was cut off goes on."""
    config = f'configs/retinanet_{norm}_b{batch}.py'
    work_dir = folder / f'{norm}_b{batch}_s{seed}'
    result = work_dir / 'result.json'
    if not result.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, 'tools/train.py', config, '--resume', '--seed', str(seed)]
        with open(work_dir / 'log.txt', 'a') as log:
            done = subprocess.run(
                [*command, '--work-dir', str(work_dir)],
                cwd=ROOT,
                env=os.environ | dict(OMP_NUM_THREADS='1'),
                stdout=log,
                stderr=log,
            )
        if done.returncode:
            raise UserError(f'{work_dir.name} failed; its last lines are in {log.name}')
    return json.loads(result.read_text())


def table(results: list[dict], norms: Sequence[str], batches: Sequence[int]) -> str:
    """A Markdown table of mean AP and spread (standard deviation) over the seeds."""
    cells: dict[tuple[str, int], list[float]] = {}
    for result in results:
        norm = result['config'].split('_')[1]
        cells.setdefault((norm, result['images_a_step']), []).append(
            result['metrics']['coco/bbox_mAP']
        )
    rows = [
        '| AP | ' + ' | '.join(f'batch {b}' for b in batches) + ' |',
        '|---' * (len(batches) + 1) + '|',
    ]
    rows += [f'| {n} | ' + ' | '.join(cell(cells[n, b]) for b in batches) + ' |' for n in norms]
    return '\n'.join(rows)


def cell(values: list[float]) -> str:
    """Mean and spread of one cell."""
    spread = f'{statistics.stdev(values):.3f}' if len(values) > 1 else 'one seed'
    return f'{statistics.mean(values):.3f} ± {spread}'
