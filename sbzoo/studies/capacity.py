"""What small batches of batch norm can fit: labels that mean nothing, and few pictures.

Random labels can only be learned by heart, picture by picture. Batch norm mixes the pictures of a
batch, which is said to regularize: to fit less of what is noise, and to generalize better from few.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

NORMS = {'no norm': '', 'bn': 'bn', 'in': 'in', 'gn': 'gn8', 'ln': 'ln', 'hybrid': 'hybrid'}
PER_SAMPLE = 'in', 'gn', 'ln'
BATCHES = 2, 8, 32
IMAGES, FEW, EPOCHS = 256, 50, 40
LR = 0.02  # at batch size 8, and its square root for others
FITTED, LEARNED = 'random labels that are fitted', 'accuracy from 50 pictures'


def measure(spec: str, images: Tensor, labels: Tensor, batch: int) -> float:
    """The part of random labels that a small network fits, by its evaluation mode.

    Args:
        spec: Its norm.
        images: [N, 1, 8, 8].
        labels: [N].
        batch: The batch size; images seen are the same for all.
    """
    model = small.network(spec)
    small.train(model, images, labels, EPOCHS * len(images) // batch, batch, _rate(batch))
    return small.accuracy(model, images, labels)


def _rate(batch: int) -> float:
    return LR * (batch / 8) ** 0.5


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Each norm and batch size, from the same weights."""
    order = torch.randperm(len(small.digits()[0]))
    images, labels = (part[order] for part in small.digits())
    nonsense = torch.randint(10, (IMAGES,))
    for arm, spec in NORMS.items():
        for batch in BATCHES:
            torch.manual_seed(seed)
            yield Value(FITTED, arm, str(batch), measure(spec, images[:IMAGES], nonsense, batch))
            model, steps = small.network(spec), EPOCHS * FEW // batch
            small.train(model, images[:FEW], labels[:FEW], steps, batch, _rate(batch))
            learned = small.accuracy(model, *small.digits(held_out=True))
            yield Value(LEARNED, arm, str(batch), learned)


def judge(values: Values) -> Verdict:
    """Batch norm fits less noise than norms of a sample, and learns more from few pictures."""
    fitted, learned = (_ahead(values, quantity) for quantity in (FITTED, LEARNED))
    said = '; '.join(_said(values, arm) for arm in NORMS)
    confirmed = max(fitted) < 0 < min(learned)
    return decide(confirmed, min(fitted) > 0 or max(learned) < 0, said)


def _ahead(values: Values, quantity: str) -> list[float]:
    """By how much batch norm is ahead of the best norm of a sample at batch size 2, by seed."""
    others = zip(*(values.of(quantity, arm, 2) for arm in PER_SAMPLE), strict=True)
    return [bn - max(of) for bn, of in zip(values.of(quantity, 'bn', 2), others, strict=True)]


def _said(values: Values, arm: str) -> str:
    fitted, learned = (values.mean(quantity, arm, 2) for quantity in (FITTED, LEARNED))
    return f'{arm}: fits {fitted:.2f}, learns {learned:.2f} at batch size 2'


STUDY = Study(
    claim=(
        'At small batches batch norm fits fewer random labels than norms of a sample, and learns '
        'more from few pictures.'
    ),
    source='Luo et al. 2019, arXiv 1809.00846, on batch norm as a regularizer',
    run=run,
    judge=judge,
    axis='batch size',
)
