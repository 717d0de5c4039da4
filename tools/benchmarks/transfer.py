"""Convert a trained batch norm detector to another norm: AP before and after fine-tuning."""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from benchmarks import runs
from sbzoo.report.gather import STARTS
from sbzoo.report.tables import mean_std

SPECS = {'gn': 'gn8', 'ln': 'ln', 'in': 'in', 'hybrid': 'hybrid'}
CONVERSIONS = dict(copied=('--copy',), calibrated=('--images', 64))
BN_OPTIONS = dict(
    updated=(),
    frozen=('--norm', 'fbn'),
    norm_eval=('--cfg-options', 'model.backbone.norm_eval=True'),
)
LR = 0.001  # x batch size, for all but what starts from random weights
SCRATCH_LR = 0.01  # that of the configs
ROWS = [('bn', start) for start in ('trained', *BN_OPTIONS, 'scratch')]
ROWS += list(product(SPECS, (*CONVERSIONS, 'scratch')))
EPOCHS = {0: 'no training', 1: 'an epoch at batch 1', 2: 'an epoch at batch 2'}  # by batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    parser.add_argument('--batches', nargs='+', type=int, default=(1, 2), choices=(1, 2))
    runs.add_arguments(parser, 'transfer', 'transfer_digits.jsonl')


def run(args: argparse.Namespace) -> None:
    """Train, convert and fine-tune what is not there yet, collect the results, print the table."""
    trained = product([args.dir], args.seeds)
    runs.run_all(_train_bn, trained, args.jobs)
    runs.run_all(_convert, product([args.dir], args.seeds, SPECS, CONVERSIONS), args.jobs)
    grid = [
        (args.dir, seed, norm, start, batch)
        for seed, batch, (norm, start) in product(args.seeds, (0, *args.batches), ROWS)
        if batch in _batches_of(start)
    ]
    results = runs.run_all(_measure, grid, args.jobs)
    print(table(results))
    runs.record(args.out, results)


def _batches_of(start: str) -> tuple[int, ...]:
    """The columns that a row has."""
    if start == 'trained':
        return (0,)
    return (0, 1, 2) if start in CONVERSIONS else (1, 2)


def _trained(folder: Path, seed: int) -> Path:
    return folder / f'bn_trained_s{seed}'


def _converted(folder: Path, seed: int, norm: str, start: str) -> Path:
    return folder / f'{norm}_{start}_s{seed}.pth'


def _train_bn(folder: Path, seed: int) -> dict:
    config = 'configs/retinanet_bn_b2.py'
    return runs.result_of(_trained(folder, seed), 'train', config, '--resume', '--seed', seed)


def _convert(folder: Path, seed: int, norm: str, start: str) -> None:
    bn = 'configs/retinanet_bn_b2.py', _trained(folder, seed)
    out = _converted(folder, seed, norm, start)
    runs.convert(out, *bn, '--norm', SPECS[norm], *CONVERSIONS[start])


def _measure(folder: Path, seed: int, norm: str, start: str, batch: int) -> dict:
    """The result of one cell, for one seed."""
    if start == 'trained':
        result = _train_bn(folder, seed)
    else:
        config = f'configs/retinanet_{norm}_b{batch or 2}.py'
        work_dir = folder / f'{norm}_{start}_b{batch}_s{seed}'
        if batch:
            options = _fine_tuning(folder, seed, norm, start, batch)
            options = 'train', config, '--resume', '--seed', seed, '--epochs', 1, *options
        else:
            options = 'test', config, _converted(folder, seed, norm, start)
        result = runs.result_of(work_dir, *options)
    return result | dict(norm=norm, start=start, batch=batch, seed=seed)


def _fine_tuning(folder: Path, seed: int, norm: str, start: str, batch: int) -> tuple:
    """The options of an epoch from the trained detector, or none from random weights."""
    if start == 'scratch':
        return ()
    checkpoint = _converted(folder, seed, norm, start)
    if norm == 'bn':
        checkpoint = _trained(folder, seed) / 'epoch_3.pth'
    return '--load-from', checkpoint, '--lr', LR * batch, *BN_OPTIONS.get(start, ())


def table(results: list[dict]) -> str:
    """A Markdown table of mean AP ± standard deviation over the seeds."""
    cells: dict[tuple, list[float]] = {}
    for result in results:
        key = result['norm'], result['start'], result['batch']
        cells.setdefault(key, []).append(runs.ap(result))
    rows = ['| AP | | ' + ' | '.join(EPOCHS.values()) + ' |', '|---' * (len(EPOCHS) + 2) + '|']
    for norm, start in ROWS:
        values = (mean_std(cells.get((norm, start, batch), [])) for batch in EPOCHS)
        rows.append(f'| {norm} | {STARTS[start]} | ' + ' | '.join(values) + ' |')
    return '\n'.join(rows)
