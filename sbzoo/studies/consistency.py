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
from torchvision.ops import box_iou

from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.resolve import CARD
from sbzoo.engine.loss_normalizers import traceless
from sbzoo.engine.model import config_of, load_model
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject, embedded, set_norms

INDEPENDENT = 'gn', 'in', 'ln'
NORMS = 'bn', 'hybrid', *INDEPENDENT
BATCHES = 1, 2, 8
PICTURES, NOISES = 40, 100
SCORE, IOU, STILL = 0.3, 0.5, 1e-3
MATES, MODE = 'detections that other mates flip', 'detections that differ from evaluation'
MOVED = 'distance by other mates, of that by other noise'  # of GANs


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
    """A user's detector on its validation pictures, or the cards of RetinaNet and DCGAN by norm."""
    if subject:
        yield from _of(subject, subject.name)
        return
    for norm in NORMS:
        torch.manual_seed(seed)  # the same pictures, noise and mates for all
        yield from _of(embedded(name := f'retinanet_{norm}_b2', name), norm)
        yield from _of_gan(f'dcgan_{norm}_b2', norm)


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
        set_norms(model, training)
        found = model(**data, mode='predict')[0].pred_instances
    chosen = found.scores > SCORE
    return Boxes(found.bboxes[chosen], found.labels[chosen])


def _of_gan(name: str, arm: str) -> Iterator[Value]:
    sampler = load_model(config_of(card(name)), f'{CARD}{name}').sampler
    noise = torch.randn(NOISES, sampler.noise_size, device=next(sampler.parameters()).device)
    with traceless(sampler):
        set_norms(sampler, training=True)
        for batch in BATCHES[1:]:
            yield Value(MOVED, arm, str(batch), moved(sampler, noise, batch))


def moved(sampler: nn.Module, noise: Tensor, batch: int) -> float:
    """How far other mates move the images of noise, over how far other noise does.

    Args:
        sampler: From noise [N, C] to images [N, 3, S, S], in the mode that it is in.
        noise: [N, C]; each row is in two batches, with mates of its own in each.
        batch: Of how many images.
    """
    one, other = (_beside_mates(sampler, noise, batch) for _ in range(2))
    return ((one - other).square().mean() / (one - one.roll(1, 0)).square().mean()).sqrt().item()


def _beside_mates(sampler: nn.Module, noise: Tensor, batch: int) -> Tensor:
    mates = torch.randn(len(noise), batch - 1, noise.shape[1], device=noise.device)
    batches = torch.cat([noise[:, None], mates], dim=1)
    return torch.stack([sampler(each)[0] for each in batches])


def judge(values: Values) -> Verdict:
    """Batch norm flips, the hybrid less, what is independent of the batch nothing."""
    quantities = MODE, MATES, MOVED
    still = all(max(values.of(q, arm, 2)) < STILL for q in quantities for arm in INDEPENDENT)
    bn, hybrid = ([values.of(q, arm, 2) for q in quantities] for arm in NORMS[:2])
    confirmed = still and all(min(x) > max(y) > 0 for x, y in zip(bn, hybrid, strict=True))
    refuted = not still or any(max(found) < STILL for found in bn)
    said = '; '.join(f'{arm}: {_said(values, arm)}' for arm in NORMS)
    images = ', '.join(f'{values.mean(MOVED, arm, 2):.1%} {arm}' for arm in NORMS[:2])
    return decide(
        confirmed,
        refuted,
        f'detections that differ from evaluation at batch size 1, 2, 8: {said}; images of a GAN at '
        f'2 move by {images}',
    )


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
        'With batch norm a detection or a generated image depends on what shares the batch, and on '
        'training or evaluation mode; with a hybrid less, with gn, in and ln not at all.'
    ),
    source='Ioffe 2017, arXiv 1702.03275; Singh and Shrivastava 2019, arXiv 1904.03515',
    run=run,
    judge=judge,
    advise=advise,
    axis='batch size',
)
