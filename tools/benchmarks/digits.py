"""AP of RetinaNet on the digit scenes, by norm and batch size."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks import runs
from sbzoo.report.tables import mean_std

NORMS, BATCHES = ('bn', 'in', 'gn', 'ln', 'hybrid'), (1, 2, 4, 8, 16)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    add = parser.add_argument
    add('--norms', nargs='+', default=NORMS, choices=NORMS, metavar='NORM')
    add('--batches', nargs='+', type=int, default=BATCHES, choices=BATCHES, metavar='N')
    runs.add_arguments(parser, 'digits', 'retinanet_digits.jsonl')


def run(args: argparse.Namespace) -> None:
    """Train what is not trained yet, collect the results, print the table."""
    grid = product([args.dir], args.seeds, args.batches, args.norms)
    results = runs.run_all(_train, grid, args.jobs)
    print(table(results, args.norms, args.batches))
    runs.record(args.out, results)


def _train(folder: Path, seed: int, batch: int, norm: str) -> dict:
    """One training run; a run that was cut off goes on."""
    config = f'configs/retinanet_{norm}_b{min(batch, 2)}.py'
    work_dir = folder / f'{norm}_b{batch}_s{seed}'
    options = '--batch', batch, '--resume', '--seed', seed
    return runs.result_of(work_dir, 'train', config, *options)


def table(results: list[dict], norms: Sequence[str], batches: Sequence[int]) -> str:
    """A Markdown table of mean AP ± standard deviation over the seeds."""
    cells: dict[tuple[str, int], list[float]] = {}
    for result in results:
        key = runs.norm_of(result), result['images_a_step']
        cells.setdefault(key, []).append(runs.ap(result))
    rows = [
        '| AP | ' + ' | '.join(f'batch {b}' for b in batches) + ' |',
        '|---' * (len(batches) + 1) + '|',
    ]
    for norm in norms:
        texts = (mean_std(cells.get((norm, batch), ())) for batch in batches)
        rows.append(f'| {norm} | ' + ' | '.join(texts) + ' |')
    return '\n'.join(rows)
