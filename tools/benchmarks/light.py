"""AP by norm and batch size where each picture has its own light."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product

from benchmarks import arms
from benchmarks.arms import Arm

NORMS = 'bn', 'gn', 'in', 'ln', 'hybrid'
SPECS = {'gn + ws': 'gn8+ws', 'hybrid(bn,running)': 'hybrid(bn,running)', 'sn': 'sn'}
EPOCHS = 3
BATCHES = 1, 2, 8
STRENGTHS = {'0': 0.0, '1/3': 0.33, '2/3': 0.67, '1': 1.0}
RATE = 0.01  # the learning rate of an image
PARTS = 'backbone', 'neck', 'bbox_head'
SPLITS = 'train', 'val', 'test'


def config(norm: str) -> str:
    """The config of a norm at batch size 2."""
    return f'configs/retinanet_{norm}_b2_light.py'


def _trainings() -> Iterator[tuple[str, tuple]]:
    """Every norm, and how it is trained."""
    for norm in NORMS:
        yield norm, ('train', config(norm))
    for name, spec in SPECS.items():
        yield name, ('train', config('gn'), '--norm', spec)


def _norms() -> Iterator[Arm]:
    """Every norm at equal images, and at batch size 8 with the steps of batch size 2 too."""
    study = 'own light'
    for (norm, train), batch in product(_trainings(), BATCHES):
        yield Arm(study, norm, f'batch {batch}', (*train, '--batch', batch))
    for norm, train in _trainings():
        longer = *train, '--batch', 8, '--epochs', EPOCHS * 8 // 2
        yield Arm(study, norm, 'batch 8, steps of batch 2', longer)
    for batch in BATCHES:
        first = 'train', config('bn'), '--batch', batch, '--epochs', EPOCHS - 1
        last = 'train', config('bn'), '--batch', batch, '--norm', 'fbn', '--epochs', 1
        yield Arm(study, 'bn, then fbn', f'batch {batch}', last, after=first)
    for batch in (2, 8):
        train = 'train', config('bn'), '--norm', 'syncbn', '--batch', batch // 2
        yield Arm(study, 'syncbn of 2 ranks', f'batch {batch}', train, ranks=2)


def _learning_rates() -> Iterator[Arm]:
    """Whether the recipe is fair to the extremes."""
    for norm, batch, factor in product(('bn', 'gn'), (1, 8), (1 / 3, 1, 3)):
        changed = () if factor == 1 else ('--lr', f'{RATE * batch * factor:.4g}')
        train = 'train', config(norm), '--batch', batch, *changed
        yield Arm('learning rate', f'{norm}, batch {batch}', f'x {factor:.2g}', train)


def _strength() -> Iterator[Arm]:
    """Batch norm and group norm against the strength of the light."""
    for norm, (name, strength) in product(('bn', 'gn', 'hybrid'), STRENGTHS.items()):
        loaders = [f'{split}_dataloader.dataset.strength={strength}' for split in SPLITS]
        changed = () if strength == 1 else ('--cfg-options', *loaders)
        yield Arm('strength', norm, name, ('train', config(norm), '--batch', 2, *changed))


def _padding() -> Iterator[Arm]:
    """Pictures of mixed aspect ratio, trained and tested with padding left out and counted."""
    for norm in ('gn', 'in', 'ln', 'hybrid'):
        counted = (f'model.{part}.norm_cfg.count_padding=True' for part in PARTS)
        train = 'train', config(norm), '--batch', 2
        yield Arm('mixed aspect ratios', norm, 'left out', train)
        yield Arm('mixed aspect ratios', norm, 'counted', (*train, '--cfg-options', *counted))


STUDIES = dict(norms=_norms, strength=_strength, padding=_padding, learning_rates=_learning_rates)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be left out or done side by side."""
    arms.add_arguments(parser, 'light', STUDIES)


def run(args: argparse.Namespace) -> None:
    """Run what has not been run yet; each result is on record as soon as it is there."""
    arms.run(args, STUDIES)
