"""A backbone of ImageNet in a detector at batch size 1 and 2: what is done with its batch norm."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch
from mmengine.config import Config

from benchmarks import arms, runs
from benchmarks.arms import Arm
from benchmarks.imagenet import efficientnet_lite0
from sbzoo.engine.model import build_model
from sbzoo.files import write

CONFIG = 'configs/retinanet_lite0_bn_b2.py'
SPECS = 'gn8', 'ln', 'hybrid'
CONVERSIONS = dict(copied=('--copy',), calibrated=('--images', 64))
BATCHES = 1, 2
EPOCHS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which seeds, and where the runs are kept."""
    runs.add_arguments(parser, 'fine_tuning', 'fine_tuning.jsonl')


def run(args: argparse.Namespace) -> None:
    """Convert the detector, and train it with each norm for an epoch; what is there is kept."""
    _write_pretrained(args.dir)
    for spec, start in product(SPECS, CONVERSIONS):
        _convert(args.dir, spec, start)
    args.studies = ['fine-tuning']
    arms.run(args, {'fine-tuning': partial(_arms, args.dir)})


def _checkpoint(folder: Path, name: str) -> Path:
    return folder / f'{name}.pth'


def _write_pretrained(folder: Path) -> None:
    """The detector with batch norm and the weights of ImageNet; its neck and head are random."""
    out = _checkpoint(folder, 'bn')
    if out.exists():
        return
    torch.manual_seed(0)
    detector, weights = build_model(Config.fromfile(CONFIG)), efficientnet_lite0().state_dict()
    detector.init_weights()
    network = detector.backbone.net
    network.load_state_dict({key: weights[key] for key in network.state_dict()})
    content = io.BytesIO()
    torch.save(dict(state_dict=detector.state_dict(), meta={}), content)
    write(out, content.getvalue())


def _convert(folder: Path, spec: str, start: str) -> None:
    out = _checkpoint(folder, f'{spec}_{start}')
    if not out.exists():
        bn = CONFIG, _checkpoint(folder, 'bn')
        runs.call(
            folder / out.stem, 'convert', *bn, '--norm', spec, *CONVERSIONS[start], '--out', out
        )


def _arms(folder: Path) -> Iterator[Arm]:
    """Every norm of the backbone, copied and calibrated."""
    starts = {'bn, updated': ('bn', 'bn'), 'bn, frozen': ('fbn', 'bn')}
    starts |= {f'{s}, {how}': (s, f'{s}_{how}') for s, how in product(SPECS, CONVERSIONS)}
    for (name, (spec, weights)), batch in product(starts.items(), BATCHES):
        norm = () if spec == 'bn' else ('--norm', spec)
        options = '--batch', batch, '--epochs', EPOCHS, '--load-from', _checkpoint(folder, weights)
        yield Arm('fine-tuning', name, f'batch {batch}', ('train', CONFIG, *norm, *options))
