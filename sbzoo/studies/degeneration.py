"""What batch norm leaves of so few values that their own mean and scale are all there is.

Normalizing n values of a channel takes two numbers away, their mean and their scale: n - 2 of n
directions are left in the output and in the gradient. With one value (a 1 x 1 map at batch size 1)
the output is constant, with two it is -1 and 1 whatever they are, and in both cases the gradient is
zero and nothing before the layer learns. On larger maps a batch of one picture is instance norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.nn.functional import batch_norm, instance_norm

from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

EPS, ZERO = 1e-12, 1e-6  # of the norm, and what counts as none
SIDES, BATCHES = (1, 2, 4), (1, 2, 4, 8)
LEFT, APART = 'part of the directions that is left', 'distance from instance norm'


def measure(x: Tensor) -> float:
    """The rank of the derivative of the normalized values of a channel in these, over their number.

    Args:
        x: A channel [N, 1, H, W], in float64.
    """
    derivative = jacobian(_normalized, x).reshape(x.numel(), x.numel())
    scale = x.std(correction=0) if x.numel() > 1 else 1.0
    return (torch.linalg.svdvals(derivative * scale) > ZERO).sum().item() / x.numel()


def _normalized(x: Tensor) -> Tensor:
    """Torch refuses a single value, so its definition is spelled out."""
    if x.numel() > 1:
        return batch_norm(x, None, None, training=True, eps=EPS)
    return (x - x.mean()) / (x.var(correction=0) + EPS).sqrt()


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Random maps of some sizes and batch sizes."""
    for side in SIDES:
        for batch in BATCHES:
            x = torch.randn(batch, 1, side, side, dtype=torch.double)
            yield Value(LEFT, _arm(side), str(batch), measure(x))
            if side > 1:
                apart = (_normalized(x) - instance_norm(x, eps=EPS)).square().mean().sqrt()
                yield Value(APART, _arm(side), str(batch), apart.item())


def _arm(side: int) -> str:
    return f'{side} x {side} maps'


def judge(values: Values) -> Verdict:
    """(n - 2) / n, nothing of one and two values, and instance norm at batch size 1."""
    holds = all(
        math.isclose(value, max(1 - 2 / (batch * side**2), 0), rel_tol=1e-4)  # as on record
        for side in SIDES
        for batch in BATCHES
        for value in values.of(LEFT, _arm(side), batch)
    )
    apart = max(value for side in SIDES[1:] for value in values.of(APART, _arm(side), 1))
    left = ', '.join(f'{values.mean(LEFT, _arm(1), batch):.2f}' for batch in BATCHES)
    return decide(
        holds and apart < ZERO,
        not holds,
        f'(n - 2) / n in every case; of 1 x 1 maps {left} at batch size '
        f'{", ".join(map(str, BATCHES))}; at batch size 1 larger maps are {apart:.0e} from '
        'instance norm',
    )


STUDY = Study(
    claim=(
        'On 1 x 1 maps batch norm at batch size 1 and 2 has a constant output and no gradient; on '
        'larger maps at batch size 1 it is instance norm.'
    ),
    source='Wu and Johnson 2021, arXiv 2105.07576, on batches of few values',
    run=run,
    judge=judge,
    axis='batch size',
)
