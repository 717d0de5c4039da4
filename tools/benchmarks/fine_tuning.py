"""A backbone of ImageNet in a detector at batch size 1 and 2: what is done with its batch norm."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from mmengine.config import Config

from benchmarks import arms, runs
from benchmarks.arms import Arm
from benchmarks.imagenet import efficientnet_lite0
from benchmarks.transfer import CONVERSIONS
from sbzoo.engine.model import build_model
from sbzoo.files import replacing

CONFIG = 'configs/retinanet_lite0_bn_b2.py'
SPECS = 'gn8', 'ln', 'hybrid'
BATCHES = 1, 2
EPOCHS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which seeds, and where the runs are kept."""
    runs.add_arguments(parser, 'fine_tuning', 'fine_tuning.jsonl')


def run(args: argparse.Namespace) -> None:
    """Convert the detector, and train it with each norm for an epoch; what is there is kept."""
    _write_pretrained(args.dir)
    for spec, start in product(SPECS, CONVERSIONS):
        out, bn = (_checkpoint(args.dir, name) for name in (f'{spec}_{start}', 'bn'))
        runs.convert(out, CONFIG, bn, '--norm', spec, *CONVERSIONS[start])
    arms.run_arms(args, _arms(args.dir))


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
    with replacing(out) as file:
        torch.save(dict(state_dict=detector.state_dict(), meta={}), file)


def _arms(folder: Path) -> Iterator[Arm]:
    """Every norm of the backbone, copied and calibrated."""
    starts = {'bn, updated': ('bn', 'bn'), 'bn, frozen': ('fbn', 'bn')}
    starts |= {f'{s}, {how}': (s, f'{s}_{how}') for s, how in product(SPECS, CONVERSIONS)}
    for (name, (spec, weights)), batch in product(starts.items(), BATCHES):
        norm = () if spec == 'bn' else ('--norm', spec)
        options = '--batch', batch, '--epochs', EPOCHS, '--load-from', _checkpoint(folder, weights)
        yield Arm('fine-tuning', name, f'batch {batch}', ('train', CONFIG, *norm, *options))
