"""Training throughput beside MMDetection's own tools/train.py, and the price of accumulation."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from benchmarks import output
from sbzoo import records
from sbzoo.data.embedded.digit_scenes import CLASSES, ensure_digits
from sbzoo.engine.options.parts import typed_dicts
from sbzoo.errors import UserError
from sbzoo.paths import ROOT, cache_dir
from sbzoo.report.measurements import compared
from sbzoo.tools.cli import positive_int

CONFIG = ROOT / 'configs/retinanet_gn_b2.py'
ACCUMULATED = 'retinanet_gn_b2', 'rtmdet_gn_b8'  # targets of objects alone, and of predictions
WINDOW = 50  # steps that a logged time is the mean of
HOST = dict(
    AccumulatingEpochLoop='EpochBasedTrainLoop',
    DigitScenes='CocoDataset',
    CocoAP='CocoMetric',
    LeanFocalLoss='FocalLoss',
    LeanRetinaSepBNHead='RetinaSepBNHead',
)
# MMDetection cannot be imported without compiled operators, so where there are none it gets those
# of sbzoo; the package itself stays out
OPERATORS = f"""
import importlib.util, sys, types
if not importlib.util.find_spec('mmcv._ext'):
    sys.modules['sbzoo'] = bare = types.ModuleType('sbzoo')
    bare.__path__ = [{str(ROOT / 'sbzoo')!r}]
    sys.modules['mmcv._ext'] = importlib.import_module('sbzoo.detection.mmcv_ops')
    del sys.modules['sbzoo']
"""


class Pair(NamedTuple):
    """What trains in two ways, and the images of its steps."""

    what: str
    peer: list[str]
    ours: list[str]
    images: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, how often, with how many threads."""
    add = parser.add_argument
    add('--steps', type=positive_int, default=250, metavar='N', help='of each run')
    add('--rounds', type=positive_int, default=3, metavar='N', help='runs of each side, in turn')
    add('--threads', nargs='+', type=positive_int, default=(2, 1), metavar='N')
    output.add_out(parser, 'train.jsonl')


def run(args: argparse.Namespace) -> None:
    """Train both ways in turn and put throughput and ratio on record."""
    ensure_digits(cache_dir() / 'digits')
    measured = []
    protocol = dict(steps=args.steps, rounds=args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for threads, pair in product(args.threads, pairs(Path(folder))):
            row = dict(what=f'training of {pair.what}, images per second')
            figures = _throughput(pair, args.steps, args.rounds, threads, folder)
            measured.append(records.measurement(row, figures, protocol, ('mmdet',), threads))
            records.record(args.out, measured)
    output.show(args.out, compared('MMDetection', measured))


def pairs(folder: Path) -> Iterator[Pair]:
    """MMDetection's tool and ours, and with ours its normalizer of accumulated losses and ours."""
    tool = [sys.executable, 'tools/train.py']
    host = [sys.executable, str(_host_tools() / 'train.py'), str(write_peer(folder))]
    yield Pair(f'configs/{CONFIG.name}', host, [*tool, str(CONFIG)], 2)
    for name in ACCUMULATED:
        exact = [*tool, f'configs/{name}.py', '--batch', '2', '--accumulate', '4']
        own = [*exact, '--loss-normalizer', 'batch']
        yield Pair(f'configs/{name}.py --batch 2 --accumulate 4', own, exact, 8)


def _throughput(pair: Pair, steps: int, rounds: int, threads: int, folder: str) -> dict[str, float]:
    """Medians of both sides, and of the ratio within each round."""
    times = [
        [seconds(command, steps, threads, folder, pair.images) for command in pair[1:3]]
        for _ in range(rounds)
    ]
    theirs, ours = (statistics.median(of_side) for of_side in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    return dict(peer=pair.images / theirs, sbzoo=pair.images / ours, ratio=ratio)


def write_peer(folder: Path) -> Path:
    """The same model, data and schedule as a plain MMDetection config, which knows no sbzoo."""
    cfg = Config.fromfile(CONFIG)
    cfg.data_root = str(ensure_digits(cfg.data_root))
    annotations = f'{cfg.data_root}/annotations/val.json'
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = annotations
    for part in typed_dicts(cfg._cfg_dict):
        if part['type'] == 'Norm':
            part.clear()
            part.update(type='GN', num_groups=8)
        part['type'] = HOST.get(part['type'], part['type'])
    for name in ('train', 'val', 'test'):
        dataset = cfg[f'{name}_dataloader'].dataset
        dataset.data_root, dataset.metainfo = cfg.data_root, dict(classes=CLASSES)
    cfg.custom_hooks = []
    del cfg._cfg_dict['sbzoo']
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.default_hooks.checkpoint.pop('backend_args')
    cfg.optim_wrapper.optimizer.pop('fused')
    cfg.custom_imports = dict(imports=['mmcv_operators'])
    (folder / 'mmcv_operators.py').write_text(OPERATORS)
    cfg.dump(folder / 'peer.py')
    return folder / 'peer.py'


def _host_tools() -> Path:
    return Path(importlib.util.find_spec('mmdet').origin).parent / '.mim/tools'


def seconds(command: list[str], steps: int, threads: int, folder: str, images: int = 2) -> float:
    """Median time of a step in a process of its own, as its log has it, start-up left out.

    Args:
        command: What trains.
        steps: In all.
        threads: Of the process.
        folder: Where modules are found, and where it may write.
        images: Of a step, over all ranks.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work_dir:
        options = [
            *('--work-dir', work_dir, '--cfg-options', 'train_cfg.max_epochs=1'),
            f'train_dataloader.dataset.indices={images * steps}',
            *(f'{split}_dataloader.dataset.indices=2' for split in ('val', 'test')),
            f'default_hooks.logger.interval={WINDOW}',
        ]
        done = subprocess.run(
            [*command, *options],
            cwd=ROOT,
            env=os.environ
            | dict(OMP_NUM_THREADS=str(threads), PYTHONPATH=os.pathsep.join([folder, str(ROOT)])),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f'{" ".join(command)} failed: {done.stderr.strip().splitlines()[-1]}')
        (log,) = Path(work_dir).glob('*/vis_data/scalars.json')
        records = map(json.loads, log.read_text().splitlines())
        times = [r['time'] for r in records if 'loss' in r]
    return statistics.median(times[1:])  # the first is of a machine that still warms up
