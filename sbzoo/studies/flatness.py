"""How flat the minimum is in which a detector lies: top eigenvalue and trace of its Hessian.

Batch norm is said to smooth the loss, so that training ends in a flatter minimum. Here it is that
of trained detectors in evaluation mode, with running statistics, as it is used: of one card for
each norm and batch size, on the same training pictures, so the spread is over pictures and not over
trainings. Curvature depends on the scale of the weights too, which a norm behind them leaves free
(Dinh et al. 2017, arXiv 1703.04933): it compares networks with care. What it says of a network by
itself is the learning rate up to which gradient descent stays in its minimum, 2 over the top
eigenvalue, and with momentum m 2 (1 + m).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from mmdet.models.losses import FocalLoss
from torch import Tensor, nn
from torch.nn.functional import one_hot

from sbzoo.errors import UserError
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.curvature import Curvature, measure
from sbzoo.studies.subject import Subject, embedded, trainable

PER_SAMPLE = 'in', 'gn', 'ln'
NORMS = 'bn', 'hybrid', *PER_SAMPLE
BATCHES = 1, 2
PICTURES = 8
TOP, TRACE = 'top eigenvalue', 'trace'


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """A user's detector on a batch of its training pictures, or the cards of RetinaNet by norm."""
    if subject:
        yield from _values(subject.name, subject.batch_size, of(subject, subject.batch_size))
        return
    for norm in NORMS:
        for batch in BATCHES:
            torch.manual_seed(seed)  # the same pictures and vectors for all
            name = f'retinanet_{norm}_b{batch}'
            yield from _values(norm, batch, of(embedded(name, name), PICTURES))


def of(subject: Subject, count: int) -> Curvature:
    """The curvature of a detector's loss on some of its training pictures.

    Raises:
        UserError: The loss cannot be differentiated twice.
    """
    pictures = torch.randperm(len(subject.trained_on.dataset))[:count].tolist()
    twice_differentiable(subject.model)
    try:
        return measure(loss(subject, pictures), trainable(subject.model))
    except RuntimeError as error:
        reason = str(error).partition('\n')[0]
        raise UserError(f'{subject.name}: its loss has no second derivative ({reason})') from error


def loss(subject: Subject, pictures: Sequence[int]) -> Tensor:
    """That of a batch of training pictures in evaluation mode, a scalar."""
    return subject.evaluation_loss(subject.trained_on, pictures, training=True)


def twice_differentiable(model: nn.Module) -> None:
    """Have the focal losses of a model computed by operations that have a second derivative.

    MMDetection does so, on any device, for labels that are one-hot.
    """
    for module in model.modules():
        if isinstance(module, FocalLoss):
            module.register_forward_pre_hook(_one_hot)


def _one_hot(_: nn.Module, args: tuple) -> tuple:
    logits, labels, *others = args
    if labels.dim() < logits.dim():
        labels = one_hot(labels, logits.shape[1] + 1)[:, :-1]  # the last is the background
    return logits, labels, *others


def _values(arm: str, batch: int, found: Curvature) -> Iterator[Value]:
    yield Value(TOP, arm, str(batch), found.top)
    yield Value(TRACE, arm, str(batch), found.trace)


def judge(values: Values) -> Verdict:
    """Batch norm is flatter than every norm of a sample, by both measures, or one is than it."""
    flatter = [_below(values, 'bn', norm) for norm in PER_SAMPLE]
    refuted = any(_below(values, norm, 'bn') for norm in PER_SAMPLE)
    said = '; '.join(f'{norm}: {_said(values, norm)}' for norm in NORMS)
    figure = f'top eigenvalue, trace of cards of batch size {", ".join(map(str, BATCHES))}: {said}'
    return decide(all(flatter), refuted, figure)


def _below(values: Values, one: str, other: str) -> bool:
    """Whether a norm is flatter than another on the pictures of every seed."""
    pairs = (
        zip(values.of(quantity, one, batch), values.of(quantity, other, batch), strict=True)
        for quantity in (TOP, TRACE)
        for batch in BATCHES
    )
    return all(first < second for pair in pairs for first, second in pair)


def _said(values: Values, arm: str, batches: Sequence[int] = BATCHES) -> str:
    found = ((values.mean(TOP, arm, b), values.mean(TRACE, arm, b)) for b in batches)
    return ', '.join(f'{top:.3g} and {trace:.3g}' for top, trace in found)


def advise(values: Values, subject: Subject) -> str:
    """The learning rates that stay in a user's minimum, by the side of its own."""
    batch, top = subject.batch_size, values.mean(TOP, subject.name, subject.batch_size)
    said = f'top eigenvalue and trace of a batch of {batch}: {_said(values, subject.name, [batch])}'
    optimizer = subject.cfg.optim_wrapper.optimizer
    if optimizer.type != 'SGD' or top <= 0:
        return said
    bound = 2 * (1 + optimizer.get('momentum', 0)) / top
    return (
        f'{said}: gradient descent with the momentum of its config stays in this minimum up to a '
        f'learning rate of {bound:.2g}; the config has {optimizer.lr:.2g}'
    )


STUDY = Study(
    claim=(
        'A detector that is trained with batch norm lies in a flatter minimum than one with a '
        'norm of a sample.'
    ),
    source='Santurkar et al. 2018, arXiv 1805.11604, on the smoothness that batch norm brings',
    run=run,
    judge=judge,
    advise=advise,
    axis='batch size of the training',
)
