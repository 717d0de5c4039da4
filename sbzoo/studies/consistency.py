"""Whether a picture's result depends on which pictures share its batch, and on the mode.

In training a network with batch statistics sees each picture through those of its mates, and in
evaluation through running statistics: two other networks than the one that a picture by itself
would meet. What changes from one to the other is what training cannot have learned to keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import box_iou

from sbzoo.engine.loss_normalizers import traceless
from sbzoo.norm import Norm
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject, embedded

CARDS = {norm: f'retinanet_{norm}_b2' for norm in ('bn', 'hybrid', 'gn', 'in', 'ln')}
INDEPENDENT = 'gn', 'in', 'ln'
BATCHES = 1, 2, 8
PICTURES = 40
SCORE, IOU = 0.3, 0.5
MATES, MODE = 'detections that other mates flip', 'detections that differ from evaluation'


class Boxes(NamedTuple):
    """What was found in a picture: boxes [N, 4] and labels [N]."""

    boxes: Tensor
    labels: Tensor


def measure(found: Sequence[Boxes], again: Sequence[Boxes]) -> float:
    """The part of the detections in either of two results that the other has not.

    Two are one where their class is the same and their IoU is at least `IOU`, each matched once.
    """
    alone = total = 0
    for one, other in zip(found, again, strict=True):
        matched = _matched(one, other)
        alone += len(one.labels) + len(other.labels) - 2 * matched
        total += len(one.labels) + len(other.labels) - matched
    return alone / total if total else 0.0


def _matched(one: Boxes, other: Boxes) -> int:
    """Pairs, those of the largest overlap first."""
    overlap = box_iou(one.boxes, other.boxes)
    overlap[one.labels[:, None] != other.labels] = 0
    pairs = 0
    while overlap.numel() and overlap.max() >= IOU:
        row, column = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[row], overlap[:, column] = 0, 0
        pairs += 1
    return pairs


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """A user's detector, or the cards of RetinaNet by norm, each on its validation pictures."""
    subjects = {subject.name: subject} if subject else None
    for arm in subjects or CARDS:
        torch.manual_seed(seed)  # the same pictures and mates for all
        yield from _of(subjects[arm] if subjects else embedded(CARDS[arm], CARDS[arm]), arm)


def _of(subject: Subject, arm: str) -> Iterator[Value]:
    order = torch.randperm(len(subject.held_out.dataset))
    pictures, others = order[:PICTURES].tolist(), order[PICTURES:].tolist()
    evaluated = [_detect(subject, [i], training=False) for i in pictures]
    for batch in BATCHES:
        sets = [_mates(others, batch - 1) for _ in range(2)]
        first, second = ([_detect(subject, [i, *mates]) for i in pictures] for mates in sets)
        yield Value(MODE, arm, str(batch), measure(first, evaluated))
        if batch > 1:
            yield Value(MATES, arm, str(batch), measure(first, second))


def _mates(others: list[int], count: int) -> list[int]:
    return [others[i] for i in torch.randperm(len(others))[:count]]


def _detect(subject: Subject, indices: list[int], training: bool = True) -> Boxes:
    """What is found in the first of some pictures, with statistics of training or evaluation."""
    model = subject.model.eval()
    data = subject.batch(subject.held_out, indices)
    with traceless(model):
        _set_norms(model, training)
        found = model(**data, mode='predict')[0].pred_instances
    chosen = found.scores > SCORE
    return Boxes(found.bboxes[chosen], found.labels[chosen])


def _set_norms(model: nn.Module, training: bool) -> None:
    for module in model.modules():
        if isinstance(module, Norm | _BatchNorm):
            module.train(training)


def judge(values: Values) -> Verdict:
    """Batch norm flips, the hybrid less, what is independent of the batch nothing."""
    flips = {arm: values.of(MODE, arm, 2) for arm in CARDS}
    still = all(max(values.of(q, a, 2)) == 0 for q in (MODE, MATES) for a in INDEPENDENT)
    confirmed = still and min(flips['bn']) > max(flips['hybrid']) > 0
    refuted = not still or max(flips['bn']) == 0
    said = '; '.join(f'{arm}: {_said(values, arm)}' for arm in CARDS)
    return decide(confirmed, refuted, f'differ from evaluation at batch size 1, 2, 8: {said}')


def _said(values: Values, arm: str) -> str:
    return ', '.join(f'{values.mean(MODE, arm, batch):.0%}' for batch in BATCHES)


def advise(values: Values, subject: Subject) -> str:
    """How far a user's detector depends on the batch."""
    mates = ', '.join(f'{values.mean(MATES, subject.name, batch):.0%}' for batch in BATCHES[1:])
    said = (
        f'{_said(values, subject.name)} of the detections in training statistics differ from those '
        f'of evaluation at batch size 1, 2, 8, and other mates flip {mates} at 2, 8'
    )
    if max(values.of(MODE, subject.name, 2)) == 0:
        return f'{said}: it is independent of the batch'
    return f'{said}: with --norm gn none would'


STUDY = Study(
    claim=(
        'With batch norm a detection depends on which pictures share the batch, and on training or '
        'evaluation mode; with a hybrid less, with group, instance and layer norm not at all.'
    ),
    source='Ioffe 2017, arXiv 1702.03275; Singh and Shrivastava 2019, arXiv 1904.03515',
    run=run,
    judge=judge,
    advise=advise,
    axis='batch size',
)
