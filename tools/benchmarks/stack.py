"""The short path on the installed packages of OpenMMLab: AP of a card, resume, a GAN, contracts."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import output, runs
from sbzoo import records
from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.io import load
from sbzoo.errors import UserError
from sbzoo.paths import ROOT
from sbzoo.records import Measurement
from sbzoo.report.measurements import note
from sbzoo.report.tables import Cell, ResultTable

PACKAGES = 'mmengine', 'mmcv', 'mmdet'
DETECTOR, GAN = 'retinanet_gn_b2', 'dcgan_in_b2'
SHORT = '--epochs', 2, '--cfg-options', 'train_dataloader.dataset.indices=48'
CONTRACTS = 'tests/engine/test_contracts.py'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the runs go."""
    parser.add_argument('--dir', type=Path, metavar='DIR', help='keep the runs here')
    output.add_out(parser, 'stack.jsonl')


def run(args: argparse.Namespace) -> None:
    """Go the short path and put what came out on record."""
    with tempfile.TemporaryDirectory() as scratch:
        figures = _figures(args.dir or Path(scratch))
    found = records.measurement({}, figures, dict(images=48, epochs=2), PACKAGES)
    found = found._replace(row=dict(zip(PACKAGES, _packages(found.versions), strict=True)))
    records.record(args.out, [found])
    output.show(args.out, tables([found]))


def _figures(folder: Path) -> dict[str, float]:
    config, gan = f'configs/{DETECTOR}.py', f'configs/{GAN}.py'
    tested = runs.result_of(folder / 'test', 'test', config, '--card', DETECTOR)
    sampled = runs.result_of(folder / 'gan', 'train', gan, *SHORT)
    return dict(
        card_ap=runs.ap(tested),
        own_tools_ap=_by_own_tools(folder / 'own', config),
        resume_difference=_resume_difference(folder, config),
        gan_fd=sampled['metrics']['FD-digits'],
        contracts=_contracts(),
    )


def _by_own_tools(folder: Path, config: str) -> float:
    """The AP of the same weights by MMDetection's tools/test.py."""
    test = 'mmdet::tools/test.py', config, card(DETECTOR).reference
    runs.call(folder, 'run', *test, '--work-dir', folder)
    (metrics,) = folder.glob('*/*.json')
    return json.loads(metrics.read_text())['coco/bbox_mAP']


def _resume_difference(folder: Path, config: str) -> float:
    """The largest difference of a weight, of a second epoch with and without a pause before it."""
    whole, paused = folder / 'whole', folder / 'paused'
    runs.result_of(whole, 'train', config, *SHORT)
    paused.mkdir()
    first = shutil.copy(whole / 'epoch_1.pth', paused)
    runs.result_of(paused, 'train', config, '--resume', first, *SHORT)
    one, other = (load(run / 'epoch_2.pth')['state_dict'] for run in (whole, paused))
    return max((one[key] - other[key]).abs().max().item() for key in one)


def _contracts() -> int:
    """How many of the tests of MMDetection's contracts pass.

    Raises:
        UserError: One does not.
    """
    command = [sys.executable, '-m', 'pytest', '-n', '0', '-rN', '-v', CONTRACTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f'{CONTRACTS} failed: {done.stdout.strip().splitlines()[-1]}')
    return int(re.search(r'(\d+) passed', done.stdout)[1])


def tables(measured: Sequence[Measurement]) -> list[ResultTable]:
    """A row for each combination of packages."""
    heads = (
        *PACKAGES,
        f'AP of {DETECTOR}',
        "by MMDetection's tools/test.py",
        'weights differ after a resume by',
        f'FD-digits of {GAN}',
        'contract tests passed',
    )
    rows = [tuple(map(Cell, (*_packages(m.row), *_cells(m.figures)))) for m in measured]
    return [ResultTable('packages of OpenMMLab', heads, rows, note(measured))] if rows else []


def _packages(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in PACKAGES)


def _cells(figures: dict[str, float]) -> tuple[str, ...]:
    aps = (f'{figures[name]:.4f}' for name in ('card_ap', 'own_tools_ap'))
    rest = (f'{figures[name]:g}' for name in ('resume_difference', 'gan_fd', 'contracts'))
    return *aps, *rest
