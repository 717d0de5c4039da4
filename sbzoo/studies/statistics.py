"""How far the batch statistics of each layer are off, and how many values a picture is worth.

The variance of n independent values is off by 2 / (n - 1) of its square, on average. A map has
hundreds of values, but those of a picture are alike, and so a batch of B pictures is as good as
n_eff B values, where n_eff is a property of the data and the layer: about 2 / (n_eff B). It says
whether batch norm is in danger at a batch size; group norm's statistics are of one picture, and so
are the same at any.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject, embedded

CARD = 'retinanet_bn_b2'
SETS = {'plain': 'retinanet_bn_b2', 'own light': 'retinanet_bn_b2_light'}  # configs
PICTURES, DRAWS = 64, 500
BATCHES = 2, 4, 8, 16
ERROR, WORTH = 'error of the variance, squared', 'values a picture is worth'
POSITIONS = ', positions of a map'  # behind the name of an arm
BORNE = 0.3  # of the variance, at which batch norm is level with group norm on the plain scenes


class Moments(NamedTuple):
    """Of each picture in a layer: mean and mean square [M, C], and its positions."""

    mean: Tensor
    square: Tensor
    positions: int


def measure(moments: Moments, batch: int, draws: int) -> float:
    """The squared error of the unbiased variance of `batch` pictures, over the squared variance.

    Both are of the pictures of `moments`, drawn with replacement; a mean over draws and channels.
    """
    drawn = torch.randint(len(moments.mean), (draws, batch))
    truth = _variance(moments.mean, moments.square)
    found = _variance(moments.mean[drawn], moments.square[drawn])
    n = batch * moments.positions
    error = (found * n / (n - 1) / truth - 1).square()
    return error[:, truth > truth.max() * 1e-6].mean().item()


def _variance(mean: Tensor, square: Tensor) -> Tensor:
    """Of all pictures of the last dimension but one, by channel."""
    return square.mean(-2) - mean.mean(-2).square()


def worth(error: float, batch: int) -> float:
    """The values that a picture is worth: n of error 2 / (n - 1), by picture."""
    return (2 / error + 1) / batch


@torch.no_grad()
def moments_of(subject: Subject, pictures: Sequence[int]) -> dict[str, Moments]:
    """The moments of what comes to each norm of a detector, which evaluates pictures one by one."""
    found: dict[str, list[tuple[Tensor, Tensor, int]]] = defaultdict(list)
    layers = {n: m for n, m in subject.model.named_modules() if isinstance(m, NORMS)}
    hooks = [m.register_forward_pre_hook(partial(_take, found[n])) for n, m in layers.items()]
    subject.model.eval()
    for index in pictures:
        data = subject.batch(subject.held_out, [index])
        subject.model(**data, mode='tensor')
    for hook in hooks:
        hook.remove()
    return {name: _stacked(parts, len(pictures)) for name, parts in found.items() if parts}


NORMS = _NormBase, nn.GroupNorm  # sbzoo's too


def _take(parts: list[tuple[Tensor, Tensor, int]], _: nn.Module, args: tuple) -> None:
    x = args[0].flatten(2).double()
    parts.append((x.mean(2).cpu(), x.square().mean(2).cpu(), x.shape[2]))


def _stacked(parts: list[tuple[Tensor, Tensor, int]], pictures: int) -> Moments:
    """Of a head that runs for several pyramid levels, the first, which has the most positions."""
    mean, square, positions = zip(*parts[:: len(parts) // pictures], strict=True)
    return Moments(torch.cat(mean), torch.cat(square), int(statistics.median(positions)))


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """A user's detector on its validation pictures, or a card on both embedded sets."""
    if subject:
        yield from _of(subject, subject.name)
        return
    for arm, config in SETS.items():
        yield from _of(embedded(config, CARD), arm)


def _of(subject: Subject, arm: str) -> Iterator[Value]:
    pictures = torch.randperm(len(subject.held_out.dataset))[:PICTURES].tolist()
    layers = moments_of(subject, pictures)
    for batch in BATCHES:
        errors = [measure(moments, batch, DRAWS) for moments in layers.values()]
        yield Value(ERROR, arm, str(batch), statistics.median(errors))
        yield Value(WORTH, arm, str(batch), worth(statistics.median(errors), batch))
        positions = statistics.median(moments.positions for moments in layers.values())
        yield Value(WORTH, arm + POSITIONS, str(batch), positions)


def judge(values: Values) -> Verdict:
    """2 / (n_eff B) at every B, with an n_eff that is far below the positions of a map."""
    worths = {arm: [values.mean(WORTH, arm, batch) for batch in BATCHES] for arm in SETS}
    sizes = {arm: _positions(values, arm) for arm in SETS}
    confirmed = all(max(n) < min(1.5 * min(n), sizes[arm] / 2) for arm, n in worths.items())
    refuted = any(max(n) > min(2 * min(n), sizes[arm]) for arm, n in worths.items())
    said = (f'{arm}: {min(n):.1f} to {max(n):.1f} of {sizes[arm]:.0f}' for arm, n in worths.items())
    return decide(confirmed, refuted, 'values a picture is worth, ' + '; '.join(said))


def _positions(values: Values, arm: str) -> float:
    return values.mean(WORTH, arm + POSITIONS, BATCHES[-1])


def advise(values: Values, subject: Subject) -> str:
    """Whether batch norm is in danger at the batch size of a user's config."""
    n_eff, batch = values.mean(WORTH, subject.name, BATCHES[-1]), subject.batch_size
    off, enough = error_of(n_eff * batch), math.ceil((2 / BORNE**2 + 1) / n_eff)
    said = (
        f'a picture is worth {n_eff:.1f} of its {_positions(values, subject.name):.0f} values '
        f'in the median layer, so at batch size {batch} the variance of a batch is off by '
        f'{off:.0%}'
    )
    if off <= BORNE:
        return f'{said}: batch norm has borne as much without loss (retinanet_bn_b2, plain scenes)'
    return (
        f'{said}: batch norm is in danger, from batch size {enough} on it would be off by '
        f'{BORNE:.0%} at most; take a norm that is independent of the batch: --norm gn'
    )


def error_of(values: float) -> float:
    """The root mean square error of the variance of so many independent values, of the variance."""
    return math.sqrt(2 / max(values - 1, 1))


STUDY = Study(
    claim=(
        'The variance of a batch is off by 2 / (n_eff B), and a picture is worth few values, '
        'however large its maps are.'
    ),
    source='for independent values, any textbook; for batch norm, Wu and He 2018, arXiv 1803.08494',
    run=run,
    judge=judge,
    advise=advise,
    axis='batch size',
    card=CARD,
    logarithmic=frozenset([ERROR, WORTH]),
)
