"""The gradient of a small batch: its variance against the batch size, and its bias.

For a loss that is a mean over images, the gradient of B images drawn at random is the full gradient
and noise whose variance is that of one image over B. Batch norm makes each image's loss depend on
the others, so its small batches have another gradient on average, which no averaging, momentum or
smaller learning rate takes away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject, gradient, trainable

NORMS = {'no norm': '', 'gn': 'gn8', 'bn': 'bn'}
BATCHES = 1, 2, 4, 8, 16, 32
IMAGES, DRAWN = 512, 4096  # images to draw from, and of all batches of a size
PICTURES, OF_PICTURES, DRAWN_PICTURES = 32, (1, 2, 4, 8), 96  # the same of a user's detector
VARIANCE, COSINE = 'variance', 'cosine of the mean with the full gradient'
UNBIASED = 0.9  # a cosine above it

Gradient = Callable[[Tensor], Tensor]  # of the images of some indices, as one vector


class Noise(NamedTuple):
    """What is known of the gradient of a batch.

    Attributes:
        variance: The trace of its covariance.
        cosine: Between its mean and the full gradient; 0 where the mean cannot be told from 0.
    """

    variance: float
    cosine: float


def measure(gradient: Gradient, size: int, batch: int, draws: int) -> Noise:
    """The noise and the bias of the gradient of `batch` of `size` images, drawn with replacement.

    The squared length of the mean is estimated from two halves of the draws, so that their noise
    does not count as length.
    """
    full = gradient(torch.arange(size))
    halves, squares = torch.zeros(2, len(full)), 0.0
    for draw in range(draws):
        found = gradient(torch.randint(size, (batch,)))
        halves[draw % 2] += found / math.ceil((draws - draw % 2) / 2)
        squares += found.square().sum().item()
    mean = halves.mean(0)
    variance = (squares - draws * mean.square().sum().item()) / (draws - 1)
    length = max((halves[0] @ halves[1]).item(), 0.0) ** 0.5
    cosine = (mean @ full / full.norm()).item() / length if length else 0.0
    return Noise(variance, min(cosine, 1.0))


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Small networks at random weights, or the detector of a user at its own."""
    if subject:
        yield from _of_subject(subject)
        return
    for arm, spec in NORMS.items():
        torch.manual_seed(seed)  # the same weights and draws for all
        of = partial(_gradient, small.network(spec))
        for batch in BATCHES:
            yield from _values(arm, batch, measure(of, IMAGES, batch, DRAWN // batch))


def _gradient(model: nn.Module, indices: Tensor) -> Tensor:
    images, labels = (part[indices] for part in small.digits())
    return gradient(cross_entropy(model(images), labels), trainable(model))


def _of_subject(subject: Subject) -> Iterator[Value]:
    chosen = torch.randperm(len(subject.trained_on.dataset))[:PICTURES]
    parameters, normalizers = trainable(subject.model), subject.normalizers(chosen)

    def of(indices: Tensor) -> Tensor:
        return gradient(subject.loss(chosen[indices], normalizers), parameters).cpu()

    for batch in OF_PICTURES:
        noise = measure(of, len(chosen), batch, DRAWN_PICTURES // batch)
        yield from _values(subject.name, batch, noise)


def _values(arm: str, batch: int, noise: Noise) -> Iterator[Value]:
    yield Value(VARIANCE, arm, str(batch), noise.variance)
    yield Value(COSINE, arm, str(batch), noise.cosine)


def slope(values: Values, arm: str) -> float:
    """Of the logarithm of the variance on that of the batch size."""
    line = values.lines(VARIANCE)[arm]
    x = torch.tensor([math.log(int(batch)) for batch in line])
    y = torch.tensor([math.log(values.mean(VARIANCE, arm, batch)) for batch in line])
    x, y = x - x.mean(), y - y.mean()
    return ((x @ y) / (x @ x)).item()


def judge(values: Values) -> Verdict:
    """Independent of the batch without batch norm, and biased with it."""
    arms = values.lines(COSINE)
    biased = {arm: max(values.of(COSINE, arm, 1)) < UNBIASED for arm in arms}
    unbiased = {arm: min(values.of(COSINE, arm, 1)) > UNBIASED for arm in arms}
    others = [arm for arm in arms if arm != 'bn']
    confirmed = (
        all(abs(slope(values, a) + 1) < 0.1 and unbiased[a] for a in others) and biased['bn']
    )
    refuted = unbiased['bn'] or any(biased[arm] for arm in others)
    return decide(confirmed, refuted, '; '.join(f'{arm}: {_said(values, arm)}' for arm in arms))


def _said(values: Values, arm: str) -> str:
    cosines = ', '.join(f'{values.mean(COSINE, arm, batch):.2f}' for batch in (1, 2))
    power = slope(values, arm)
    return f'variance as B^{power:.2f}, cosine {cosines} at batch size 1, 2'


def advise(values: Values, subject: Subject) -> str:
    """Whether a user's small batches have the gradient of large ones."""
    said, smallest = _said(values, subject.name), OF_PICTURES[0]
    if values.mean(COSINE, subject.name, smallest) > UNBIASED:
        return f'{said}: batches of {smallest} have the gradient of large ones, and noise'
    return (
        f'{said}: the gradient of small batches is another one, not only a noisier one; '
        'a norm that is independent of the batch (--norm gn) has the same at any batch size'
    )


STUDY = Study(
    claim=(
        'The gradient of a small batch is that of a large one and noise of variance 1 / B, and '
        'batch norm makes it another one.'
    ),
    source='Bottou, Curtis and Nocedal 2018, arXiv 1606.04838, for a mean over images',
    run=run,
    judge=judge,
    advise=advise,
    axis='batch size',
    logarithmic=frozenset([VARIANCE]),
)
