"""Which pictures a network was trained on, by its loss: a membership inference attack.

A network has a smaller loss on pictures that it has learned by heart, so a threshold on the loss
tells those of its training from others (Yeom et al. 2018, arXiv 1709.01604). The area under the ROC
curve says how well it does on average; what harms is that some pictures are told with certainty,
so the true positive rate at 1% false positives counts (Carlini et al. 2022, arXiv 2112.03570).

Of a user's detector the loss is that of each picture by itself in evaluation mode, and both sets
are loaded as in validation. Where the two differ in more than membership, as by their cameras, that
is told apart too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

NORMS = {'no norm': '', 'bn': 'bn', 'in': 'in', 'gn': 'gn8', 'ln': 'ln', 'hybrid': 'hybrid'}
PER_SAMPLE = 'in', 'gn', 'ln'
BATCHES = 2, 8
MEMBERS, EPOCHS = 100, 20
LR = 0.02  # at batch size 8, and its square root for others
PICTURES = 200  # of each set of a user
FALSE = 0.01  # the false positive rate
AUC, TPR = 'area under the ROC curve', f'members told at {FALSE:.0%} false positives'
TOLD = 0.6  # an area above it


class Attack(NamedTuple):
    """The area under the ROC curve, and the true positive rate at `FALSE` false positives."""

    auc: float
    tpr: float


def measure(members: Tensor, others: Tensor) -> Attack:
    """The attack that takes pictures of a small loss for members, from losses [M] and [N]."""
    truth = torch.cat([torch.ones(len(members)), torch.zeros(len(others))])
    scores = -torch.cat([members, others])
    false, true, _ = roc_curve(truth, scores)
    return Attack(float(roc_auc_score(truth, scores)), float(true[false <= FALSE].max()))


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """A user's detector, or small networks on few digits, whose others are of the same source."""
    if subject:
        attack = measure(*of_subject(subject))
        yield from _values(subject.name, subject.batch_size, attack)
        return
    order = torch.randperm(len(small.digits()[0]))
    images, labels = (part[order] for part in small.digits())
    for arm, spec in NORMS.items():
        for batch in BATCHES:
            torch.manual_seed(seed)
            model, rate = small.network(spec), LR * (batch / 8) ** 0.5
            few = images[:MEMBERS], labels[:MEMBERS]
            small.train(model, *few, EPOCHS * MEMBERS // batch, batch, rate)
            found = losses(model, images, labels)
            yield from _values(arm, batch, measure(found[:MEMBERS], found[MEMBERS:]))


@torch.no_grad()
def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Of each image in evaluation mode, [N]."""
    return cross_entropy(model.eval()(images), labels, reduction='none')


@torch.no_grad()
def of_subject(subject: Subject) -> tuple[Tensor, Tensor]:
    """The losses of a detector on pictures of its training and of its validation, [N] each."""
    found = []
    for loader in (subject.unaugmented, subject.held_out):
        chosen = torch.randperm(len(loader.dataset))[:PICTURES].tolist()
        found.append(torch.stack([subject.evaluation_loss(loader, [index]) for index in chosen]))
    return found[0].cpu(), found[1].cpu()


def _values(arm: str, batch: int, attack: Attack) -> Iterator[Value]:
    yield Value(AUC, arm, str(batch), attack.auc)
    yield Value(TPR, arm, str(batch), attack.tpr)


def judge(values: Values) -> Verdict:
    """Batch norm gives away less than every norm of a sample at the smallest batch, or more."""
    bn, *others = (values.of(AUC, arm, BATCHES[0]) for arm in ('bn', *PER_SAMPLE))
    pairs = [(own, other) for of in others for own, other in zip(bn, of, strict=True)]
    confirmed, refuted = all(a < b for a, b in pairs), all(a >= b for a, b in pairs)
    said = '; '.join(f'{arm}: {_said(values, arm, BATCHES[0])}' for arm in NORMS)
    return decide(confirmed, refuted, f'at batch size {BATCHES[0]} {said}')


def _said(values: Values, arm: str, batch: int) -> str:
    return f'AUC {values.mean(AUC, arm, batch):.2f}, {values.mean(TPR, arm, batch):.1%} told'


def advise(values: Values, subject: Subject) -> str:
    """Whether a user's detector gives away the pictures of its training."""
    batch = subject.batch_size
    said = (
        f'{_said(values, subject.name, batch)} of the training pictures at {FALSE:.0%} false '
        'positives'
    )
    if values.mean(AUC, subject.name, batch) <= TOLD:
        return f'{said}: the loss gives away little of what it was trained on'
    return (
        f'{said}: its loss tells training from validation pictures; whether by heart or by their '
        'source, validation pictures of the same source tell'
    )


STUDY = Study(
    claim=(
        'The noise of small batches keeps a network with batch norm from learning pictures by '
        'heart, so that it gives away less of them than norms of a sample.'
    ),
    source='Luo et al. 2019, arXiv 1809.00846, on batch norm as a regularizer; Yeom et al. 2018',
    run=run,
    judge=judge,
    advise=advise,
    axis='batch size of the training',
)
