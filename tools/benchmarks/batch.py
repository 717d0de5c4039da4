"""What a small batch needs beside a norm: padding left out, exact accumulation, scaling rules."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

from benchmarks import arms
from benchmarks.arms import Arm

RETINANET, RTMDET, DCGAN = 'configs/retinanet_gn_b2.py', 'configs/rtmdet_gn_b8.py', 'dcgan_gn_b2'
PADDED = {'0%': 32, '44%': 128, '75%': 192}  # of the canvas, to the divisor that makes it so
PARTS = 'backbone', 'neck', 'bbox_head'
EXACT, OWN = 'one normalizer', 'a normalizer each'
GENTLE_LR = 0.04  # at a total batch size of 16; the linear rule's 0.16 is chaotic
ONE_SEED = (0,)


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
    """DCGAN with Adam at one learning rate, five times slower than its recipe, for batch size 2."""
    for batch in (1, 2, 4, 8):
        for name, beta2 in (('0.9', 0.9), ('0.9^(B / 2)', 0.9 ** (batch / 2))):
            adam = [
                f'optim_wrapper.{network}.optimizer.{value}'
                for network in ('generator', 'discriminator')
                for value in ('lr=2e-4', f'betas=(0.0,{beta2:.6f})')
            ]
            config = f'configs/{DCGAN}.py', '--epochs', 8, '--batch', batch
            train = 'train', *config, '--cfg-options', *adam
            if batch != 2 or name == '0.9':
                yield Arm('beta2', name, f'batch {batch}', train, ('FD-digits',))


STUDIES = dict(
    padding=_padding,
    adamw=_adamw,
    normalizers=_normalizers,
    accumulation=_accumulation,
    beta2=_beta2,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    arms.add_arguments(parser, 'batch', STUDIES)


def run(args: argparse.Namespace) -> None:
    """Run what has not been run yet; each result is on record as soon as it is there."""
    arms.run(args, STUDIES)
