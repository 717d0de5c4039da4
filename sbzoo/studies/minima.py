"""Where training ends by batch size: the flatness of the minimum, and what it is worth.

Small batches are said to end in flat minima and large ones in sharp ones, which generalize worse.
What noise there is in training goes with the learning rate over the batch size (Jastrzebski et al.
2017, arXiv 1711.04623), so the claim has two readings: at one learning rate for all batch sizes,
and at one that is scaled with them, where the noise stays and the batch should not matter, as far
as training is stable. All train to the same loss on the training set, by plain SGD without a norm,
whose scale of weights would be free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sbzoo.studies import curvature, small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject, trainable

BATCHES = 1, 4, 16, 64, 300
FIXED, SCALED = 'fixed learning rate', 'learning rate x batch size'
RATES = {FIXED: lambda batch: 0.03, SCALED: lambda batch: 0.02 * batch}
GOAL, EVERY = 0.15, 50  # loss of the training set, and after how many steps it is looked at
STEPS = 8000  # after which training has failed
IMAGES = 512  # of the curvature
TOP, ACCURACY = 'top eigenvalue', 'accuracy at equal training loss'


class Minimum(NamedTuple):
    """The top eigenvalue of the Hessian, and the held-out accuracy."""

    top: float
    accuracy: float


def measure(batch: int, lr: float) -> Minimum | None:
    """Train a small network from random weights to the goal; None: it does not get there."""
    model = small.network()
    if not train(model, batch, lr):
        return None
    images, labels = (part[:IMAGES] for part in small.digits())
    loss = cross_entropy(model.eval()(images), labels)
    top = curvature.measure(loss, trainable(model), probes=1).top
    return Minimum(top, small.accuracy(model, *small.digits(held_out=True)))


def train(model: nn.Module, batch: int, lr: float) -> bool:
    """SGD until the loss of all training images is at the goal; whether it gets there."""
    images, labels = small.digits()
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for step in range(1, STEPS + 1):
        small.step(model, images, labels, batch, optimizer)
        if step % EVERY == 0:
            with torch.no_grad():
                loss = cross_entropy(model(images), labels).item()
            if loss < GOAL or not math.isfinite(loss):
                return loss < GOAL
    return False


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Each batch size by each rule for the learning rate, from the same weights."""
    for arm, rate in RATES.items():
        for batch in BATCHES:
            torch.manual_seed(seed)
            if found := measure(batch, rate(batch)):
                yield Value(TOP, arm, str(batch), found.top)
                yield Value(ACCURACY, arm, str(batch), found.accuracy)


def judge(values: Values) -> Verdict:
    """Flatter and better at one learning rate, and no flatter at one that is scaled."""
    fixed, accuracy = _ends(values, TOP, FIXED), _ends(values, ACCURACY, FIXED)
    scaled = _ends(values, TOP, SCALED)
    confirmed = _rises(*fixed) and _rises(*reversed(accuracy)) and not _rises(*scaled)
    refuted = _rises(*reversed(fixed)) or _rises(*accuracy) or _rises(*scaled)
    return decide(confirmed, refuted, '; '.join(f'{arm}: {_said(values, arm)}' for arm in RATES))


def _ends(values: Values, quantity: str, arm: str) -> tuple[list[float], list[float]]:
    """What all seeds have with the smallest batch size and the largest that trains."""
    trained = _trained(values, arm)
    return values.of(quantity, arm, trained[0]), values.of(quantity, arm, trained[-1])


def _rises(before: list[float], after: list[float]) -> bool:
    """Beyond the spread of the seeds."""
    return max(before) < min(after)


def _trained(values: Values, arm: str) -> list[str]:
    """The batch sizes that get to the goal with every seed."""
    line = values.lines(TOP)[arm]
    return [
        batch for batch, found in line.items() if len(found) == len(max(line.values(), key=len))
    ]


def _said(values: Values, arm: str) -> str:
    found = _trained(values, arm)
    tops = ', '.join(f'{values.mean(TOP, arm, batch):.3g}' for batch in found)
    accuracies = ', '.join(f'{values.mean(ACCURACY, arm, batch):.3f}' for batch in found)
    failed = [str(batch) for batch in BATCHES if str(batch) not in found]
    but = f' ({", ".join(failed)} does not train)' if failed else ''
    return f'top eigenvalue {tops} and accuracy {accuracies} at batch size {", ".join(found)}{but}'


STUDY = Study(
    claim=(
        'Small batches end in flatter minima than large ones, which generalize better; with the '
        'learning rate scaled by the batch size they do not.'
    ),
    source='Keskar et al. 2017, arXiv 1609.04836; Jastrzebski et al. 2017, arXiv 1711.04623',
    run=run,
    judge=judge,
    axis='batch size',
    logarithmic=frozenset([TOP]),
)
