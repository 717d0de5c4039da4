"""A detector that is carried over to pictures of another light: what to do with its batch norm.

Frozen batch norm is the custom of fine-tuning: its statistics are of many pictures, and a small
batch has no better ones. They are of the pictures that it was trained on, though. Here a detector
of plain scenes is fine-tuned for a few steps at batch size 2 on scenes that have each their own
light, with batch norm that updates its statistics, with batch norm that is frozen, and converted to
other norms, whose weights are calibrated on pictures of the new kind first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from mmengine.optim import build_optim_wrapper

from sbzoo.engine.convert_checkpoint import calibrate_on
from sbzoo.norm import convert_norm
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject, embedded

CONFIG, CARD = 'retinanet_bn_b2_light', 'retinanet_bn_b2'
UPDATED, FROZEN = 'bn, updated', 'bn, frozen'
NORMS = {UPDATED: '', FROZEN: 'fbn', 'gn': 'gn8', 'ln': 'ln', 'hybrid': 'hybrid'}
IMAGES = 32  # of the calibration
BATCH, STEPS, LR = 2, 60, 0.004
PICTURES = 60  # held out
AP, BEFORE, AFTER = 'AP', 'before', f'after {STEPS} steps'


def measure(subject: Subject, pictures: Sequence[int], order: Sequence[int]) -> tuple[float, float]:
    """The AP of a detector on held-out pictures before and after a short fine-tuning.

    Args:
        subject: It is trained.
        pictures: Indices of its validation pictures.
        order: Indices of its training pictures.
    """
    before = subject.average_precision(pictures)
    fine_tune(subject, order)
    return before, subject.average_precision(pictures)


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Each norm, on the same pictures in the same order."""
    for arm, spec in NORMS.items():
        torch.manual_seed(seed)
        target = embedded(CONFIG, CARD)
        held_out = torch.randperm(len(target.held_out.dataset))[:PICTURES].tolist()
        order = torch.randperm(len(target.trained_on.dataset)).tolist()
        convert(target, spec)
        before, after = measure(target, held_out, order)
        yield Value(AP, arm, BEFORE, before)
        yield Value(AP, arm, AFTER, after)


def convert(subject: Subject, spec: str) -> None:
    """Replace the norms of a detector, and calibrate those of a sample on training pictures."""
    if not spec:
        return
    reference = copy.deepcopy(subject.model)
    convert_norm(subject.model, spec)
    if spec != NORMS[FROZEN]:
        calibrate_on(subject.trained_on, IMAGES, subject.model, reference)


def fine_tune(subject: Subject, order: Sequence[int]) -> None:
    """Train for some steps, by the optimizer of the config at a constant learning rate."""
    cfg = copy.deepcopy(subject.cfg.optim_wrapper)
    cfg.optimizer.lr = LR
    wrapper = build_optim_wrapper(subject.model, cfg)
    for step in range(STEPS):
        wrapper.update_params(subject.loss(order[step * BATCH : (step + 1) * BATCH]))


def judge(values: Values) -> Verdict:
    """Frozen batch norm ends behind all others with every seed, or ahead of them."""
    frozen = values.of(AP, FROZEN, AFTER)
    others = zip(*(values.of(AP, arm, AFTER) for arm in NORMS if arm != FROZEN), strict=True)
    pairs = list(zip(frozen, others, strict=True))
    confirmed = all(own < min(of) for own, of in pairs)
    refuted = all(own >= max(of) for own, of in pairs)
    said = ', '.join(
        f'{arm} {values.mean(AP, arm, BEFORE):.2f} to {values.mean(AP, arm, AFTER):.2f}'
        for arm in NORMS
    )
    return decide(confirmed, refuted, f'AP before and after {STEPS} steps: {said}')


STUDY = Study(
    claim=(
        'Where the light of the pictures shifts, a detector whose batch norm is frozen learns '
        'less from a short fine-tuning than one whose statistics move or are of the sample.'
    ),
    source='Li et al. 2017, arXiv 1603.04779 (AdaBN), on statistics of the new domain',
    run=run,
    judge=judge,
    axis='fine-tuning',
)
