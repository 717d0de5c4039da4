"""What a small batch needs beside a norm: padding left out, exact accumulation, scaling rules."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from benchmarks import records, runs
from sbzoo.report.measurements import Measurement, studies

RETINANET, RTMDET, DCGAN = 'configs/retinanet_gn_b2.py', 'configs/rtmdet_gn_b8.py', 'dcgan_gn_b2'
PADDED = {'0%': 32, '44%': 128, '75%': 192}  # of the canvas, to the divisor that makes it so
PARTS = 'backbone', 'neck', 'bbox_head'
EXACT, OWN = 'one normalizer', 'a normalizer each'
GENTLE_LR = 0.04  # at a total batch size of 16; the linear rule's 0.16 is chaotic
ALL_SEEDS, ONE_SEED = None, (0,)
RECORDING = threading.Lock()  # runs end side by side


class Arm(NamedTuple):
    """A cell of a study: what is compared, under which condition, and how it is run."""

    study: str
    name: str
    condition: str
    command: tuple
    figure: str = 'coco/bbox_mAP'
    seeds: tuple[int, ...] | None = ALL_SEEDS


def _padding() -> Iterator[Arm]:
    """Cards on pictures in a larger canvas."""
    for norm in ('gn', 'in', 'ln', 'hybrid', 'bn'):
        card = f'retinanet_{norm}_b2'
        for padding, divisor in PADDED.items():
            size = f'model.data_preprocessor.pad_size_divisor={divisor}'
            test = 'test', f'configs/{card}.py', '--card', card, '--cfg-options', size
            counted = test
            if norm != 'bn':  # torch's own layer always counts it
                yield Arm('padding', f'{norm}, left out', padding, test, seeds=ONE_SEED)
                counted += tuple(f'model.{part}.norm_cfg.count_padding=True' for part in PARTS)
            yield Arm('padding', f'{norm}, counted', padding, counted, seeds=ONE_SEED)


def _accumulation() -> Iterator[Arm]:
    """RetinaNet at two total batch sizes, in one piece and in micro-batches."""
    for total, pieces, lr in ((8, (8, 2, 1), 'auto'), (16, (16, 2, 1), GENTLE_LR)):
        study = f'accumulation to {total}'
        for micro in pieces:
            train = 'train', RETINANET, '--batch', micro, '--accumulate', total // micro, '--lr', lr
            condition = f'{total // micro} x {micro}'
            yield Arm(study, EXACT, condition, train)
            if micro < total:
                yield Arm(study, OWN, condition, (*train, '--loss-normalizer', 'batch'))


def _normalizers() -> Iterator[Arm]:
    """RetinaNet at batch size 1, the loss over the positives of the image or of recent ones."""
    for normalizer in ('batch', 'moving-average'):
        train = 'train', RETINANET, '--batch', 1, '--loss-normalizer', normalizer
        yield Arm('loss normalizer', normalizer, 'batch 1', train)


def _adamw() -> Iterator[Arm]:
    """RTMDet with AdamW, whose recipe is for batch size 8."""
    for norm, batch in product(('gn8', 'hybrid', 'bn'), (1, 2, 4, 8, 16)):
        train = 'train', RTMDET, '--batch', batch, '--norm', norm
        yield Arm('AdamW', f'{norm}, square root', f'batch {batch}', train)
        if batch != 8:
            yield Arm('AdamW', f'{norm}, linear', f'batch {batch}', (*train, '--lr', 'linear'))


def _beta2() -> Iterator[Arm]:
    """DCGAN with Adam at one learning rate, whose recipe is for batch size 2."""
    for batch in (1, 2, 4, 8):
        for name, beta2 in (('0.9', 0.9), ('0.9^(B / 2)', 0.9 ** (batch / 2))):
            betas = [
                f'optim_wrapper.{network}.optimizer.betas=(0.0,{beta2:.6f})'
                for network in ('generator', 'discriminator')
            ]
            train = 'train', f'configs/{DCGAN}.py', '--batch', batch, '--cfg-options', *betas
            if batch != 2 or name == '0.9':
                yield Arm('beta2', name, f'batch {batch}', train, 'FD-digits')


STUDIES = dict(
    padding=_padding,
    adamw=_adamw,
    normalizers=_normalizers,
    accumulation=_accumulation,
    beta2=_beta2,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    add = parser.add_argument
    add('--studies', nargs='+', default=[*STUDIES], choices=STUDIES, metavar='STUDY')
    runs.add_arguments(parser, 'batch', 'batch.jsonl')


def run(args: argparse.Namespace) -> None:
    """Run what has not been run yet; each result is on record as soon as it is there."""
    arms = [arm for study in args.studies for arm in STUDIES[study]()]
    grid = [(args, arm, seed) for arm in arms for seed in arm.seeds or args.seeds]
    measured = runs.run_all(_measure, grid, args.jobs)
    records.show(args.out, studies(dict(batch=measured)))


def _measure(args: argparse.Namespace, arm: Arm, seed: int) -> Measurement:
    """One run; one that was cut off goes on."""
    tool, *options = arm.command
    if tool == 'train':
        options[1:1] = '--resume', '--seed', seed
    folder: Path = args.dir / '_'.join([arm.study, arm.name, arm.condition, f's{seed}'])
    result = runs.result_of(folder.with_name(folder.name.replace(' ', '-')), tool, *options)
    row = dict(study=arm.study, arm=arm.name, condition=arm.condition, seed=seed)
    figures = {arm.figure.removeprefix('coco/'): result['metrics'][arm.figure]}
    protocol = dict(images=result['data']['images'])
    if tool == 'train':
        protocol |= dict(epochs=result['epochs'])
    measured = records.measurement(row, figures, protocol, ('mmdet',), threads=1)
    with RECORDING:
        records.record(args.out, [measured])
    return measured
