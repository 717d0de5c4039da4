"""What the alpha of a hybrid norm learns: how far to trust the batch, by the size of the batch.

A hybrid takes a fraction alpha of its statistics from the batch and the rest from the sample, and
learns alpha as any weight, by the loss of training batches. That loss knows nothing of evaluation,
where running statistics take the place of the batch's. So what is learned is compared with the best
alpha that is fixed, by the loss of held-out images in evaluation, and with one that learns from
batches which the weights have not seen. Networks are perceptrons, whose batch statistics are of as
many values as there are images, and alpha has a hundred times their learning rate, so that a short
training is long for it. Beside them is what the hybrids of trained detectors and GANs have learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.resolve import CARD
from sbzoo.engine.hooks.alpha import alphas
from sbzoo.engine.model import config_of, load_model
from sbzoo.norm import build_norm
from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

BATCHES = 2, 16, 128
ENDS = BATCHES[0], BATCHES[-1]
STARTS = 0.1, 0.5, 0.9  # and what alpha is fixed to
STEPS, LR, ALPHA_LR, MOMENTUM, WIDTH = 300, 0.02, 2.0, 0.9, 64
APART = 400  # images that alpha learns from where it has its own
CARDS, OF_CARDS = {'RetinaNet': 'retinanet', 'DCGAN': 'dcgan'}, (1, 2)  # and their batch sizes
LEARNED, HELD_OUT, BEST = 'learned from ', 'learned from batches of its own', 'best fixed'
ALPHA, LOSS, OF_MODELS = 'alpha, mean of layers', 'held-out loss', 'alpha of trained models'
CLOSE = 0.3  # of two alphas, below the steps between starts

Data = tuple[Tensor, Tensor]  # images and labels


class Result(NamedTuple):
    """The mean alpha after training, and the held-out loss in evaluation."""

    alpha: float
    loss: float


def network(start: float) -> nn.Sequential:
    """A perceptron with two hybrid norms, whose alpha is `start`."""
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, WIDTH), build_norm('hybrid(bn,ln)', WIDTH), nn.ReLU()),
        *(nn.Linear(WIDTH, WIDTH), build_norm('hybrid(bn,ln)', WIDTH), nn.ReLU()),
        nn.Linear(WIDTH, 10),
    )
    for logit in _split(model)[0]:
        nn.init.constant_(logit, math.log(start / (1 - start)))
    return model


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Its alphas, and its weights."""
    named = dict(model.named_parameters())
    of_alpha = [name for name in named if name.endswith('alpha_logit')]
    return [named[n] for n in of_alpha], [p for n, p in named.items() if n not in of_alpha]


def measure(model: nn.Module, data: Data, batch: int, of_alpha: Data | None = None) -> Result:
    """Train weights and alphas, or the weights alone where no alpha has a gradient.

    Args:
        model: With hybrid norms.
        data: What the weights learn from, images [N, 1, 8, 8] and labels [N].
        batch: The batch size, of either.
        of_alpha: What alpha learns from; by default what the weights do.
    """
    logits, weights = _split(model)
    optimizers = torch.optim.SGD(weights, LR, MOMENTUM), torch.optim.SGD(logits, ALPHA_LR, MOMENTUM)
    turns = [(data, optimizers)]
    if of_alpha:
        turns = [(data, optimizers[:1]), (of_alpha, optimizers[1:])]
    for _ in range(STEPS):
        for part, moved in turns:
            small.step(model, *part, batch, *moved)
    images, labels = small.digits(held_out=True)
    with torch.no_grad():
        loss = cross_entropy(model.eval()(images), labels).item()
    return Result(_mean(model), loss)


def _mean(model: nn.Module) -> float:
    found = alphas(model).values()
    return sum(found) / len(found)


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """From each start, fixed at each, and from batches of its own; all from the same weights."""
    order = torch.randperm(len(small.digits()[0]))
    own, data = (
        tuple(x[part] for x in small.digits())
        for part in order.split_with_sizes([APART, len(order) - APART])
    )
    for batch in BATCHES:
        for start in STARTS:
            torch.manual_seed(seed)
            yield from _values(f'{LEARNED}{start}', batch, measure(network(start), data, batch))
        torch.manual_seed(seed)
        yield from _values(HELD_OUT, batch, measure(network(0.5), data, batch, own))
        yield from _values(BEST, batch, _best(seed, data, batch))
    yield from _of_cards()


def _best(seed: int, data: Data, batch: int) -> Result:
    """Of the alphas that are fixed, the one of the smallest loss."""
    found = []
    for start in STARTS:
        torch.manual_seed(seed)
        model = network(start)
        for logit in _split(model)[0]:
            logit.requires_grad_(False)
        found.append(measure(model, data, batch))
    return min(found, key=lambda result: result.loss)


def _values(arm: str, batch: int, result: Result) -> Iterator[Value]:
    yield Value(ALPHA, arm, str(batch), result.alpha)
    yield Value(LOSS, arm, str(batch), result.loss)


def _of_cards() -> Iterator[Value]:
    """What the cards have learned, whatever the seed."""
    for arm, name in CARDS.items():
        for batch in OF_CARDS:
            one = f'{name}_hybrid_b{batch}'
            model = load_model(config_of(card(one)), f'{CARD}{one}')
            yield Value(OF_MODELS, arm, str(batch), _mean(getattr(model, 'sampler', model)))


def judge(values: Values) -> Verdict:
    """It rises with the batch from every start, and the best one that is fixed is where it ends."""
    low, high = ([_learned(values, start, batch) for start in STARTS] for batch in ENDS)
    off = [max(of) for of in zip(*(_off(values, batch) for batch in ENDS), strict=True)]
    rises = max(map(max, low)) < min(map(min, high))
    falls = max(map(max, high)) <= min(map(min, low))
    said = '; '.join(f'{arm}: {_said(values, ALPHA, arm)}' for arm in values.lines(ALPHA))
    trained = '; '.join(f'{arm} {_said(values, OF_MODELS, arm)}' for arm in CARDS)
    losses = [values.mean(LOSS, arm, ENDS[0]) for arm in (f'{LEARNED}0.5', BEST)]
    figure = (
        f'alpha at batch size {", ".join(map(str, BATCHES))}: {said}; held-out loss at {ENDS[0]} '
        f'{losses[0]:.2f} learned from 0.5, {losses[1]:.2f} best fixed; alpha of trained models at '
        f'{", ".join(map(str, OF_CARDS))}: {trained}'
    )
    return decide(rises and max(off) < CLOSE, falls or min(off) > CLOSE, figure)


def _learned(values: Values, start: float, batch: int) -> list[float]:
    return values.of(ALPHA, f'{LEARNED}{start}', batch)


def _off(values: Values, batch: int) -> list[float]:
    """How far what is learned from the middle is from the best that is fixed, by seed."""
    pairs = zip(_learned(values, 0.5, batch), values.of(ALPHA, BEST, batch), strict=True)
    return [abs(learned - best) for learned, best in pairs]


def _said(values: Values, quantity: str, arm: str) -> str:
    line = values.lines(quantity)[arm]
    return ', '.join(f'{values.mean(quantity, arm, batch):.2f}' for batch in line)


STUDY = Study(
    claim=(
        'The alpha of a hybrid learns to trust the batch the more, the larger it is, from '
        'whatever start, and what it learns is the best that could be fixed.'
    ),
    source='Luo et al. 2018, arXiv 1806.10779, on the weights that a switchable norm learns',
    run=run,
    judge=judge,
    axis='batch size',
)
