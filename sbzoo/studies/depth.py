"""What tells two images apart, by depth, with norms and without, and whether training starts there.

Without norms a signal is multiplied at every layer by a number that depends on initialization,
activation and width; what is not exactly one vanishes or explodes with depth, and biases are what
is left. A norm makes its second moment one anew at each layer. Whether that keeps images apart
is another question: what is normalized is the sum of what they share and of what they do not.
The learning rate is the one of 0.02, 0.005 and 0.002 at which the deepest networks with a norm had
the smallest training loss: at the largest, layer norm does not train at 16 layers, and group norm
hardly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sbzoo.norm import build_norm
from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

NORMS = {'no norm': '', 'bn': 'bn', 'gn': 'gn4', 'ln': 'ln', 'hybrid': 'hybrid'}
DEPTHS, WIDTH = (3, 8, 16), 16
BATCH, STEPS, LR = 2, 1000, 0.002
CHANCE, LEARNED = 0.2, 0.5  # accuracy below the first is none, above the second is learning
LOST = 0.1  # of the difference
APART, ACCURACY = 'difference of two images in the last layer', f'accuracy after {STEPS} steps'


def network(spec: str, depth: int) -> nn.Sequential:
    """Convolutions as torch initializes them, each with a norm ('' is without) and ReLU."""
    layers: list[nn.Module] = []
    for before in (1, *[WIDTH] * (depth - 1)):
        layers.append(nn.Conv2d(before, WIDTH, 3, padding=1))
        layers += [build_norm(spec, WIDTH)] if spec else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@torch.no_grad()
def measure(model: nn.Sequential, images: Tensor) -> float:
    """The root mean square difference of what a network makes of two images, as one batch.

    Args:
        model: In the mode that it is in.
        images: [2, 1, H, W].
    """
    one, other = model(images)
    return (one - other).square().mean().sqrt().item()


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Networks of several depths, at random weights and after a short training at batch size 2."""
    pair = small.digits()[0][torch.randperm(1000)[:2]]
    for arm, spec in NORMS.items():
        for depth in DEPTHS:
            torch.manual_seed(seed)
            body = network(spec, depth)
            head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTH, 10))
            yield Value(APART, arm, str(depth), measure(body, pair))
            model = nn.Sequential(body, head)
            small.train(model, *small.digits(), STEPS, BATCH, LR)
            accuracy = small.accuracy(model, *small.digits(held_out=True))
            yield Value(ACCURACY, arm, str(depth), accuracy)


def judge(values: Values) -> Verdict:
    """Without a norm the deepest network is silent and learns nothing; with each it learns."""
    lost = {arm: _kept(values, arm) < LOST for arm in NORMS}
    learned = {arm: values.of(ACCURACY, arm, DEPTHS[-1]) for arm in NORMS}
    normed = [arm for arm in NORMS if arm != 'no norm']
    without = lost['no norm'] and max(learned['no norm']) < CHANCE
    confirmed = without and all(not lost[a] and min(learned[a]) > LEARNED for a in normed)
    refuted = not lost['no norm'] or any(lost[a] or max(learned[a]) < LEARNED for a in normed)
    return decide(confirmed, refuted, '; '.join(_said(values, arm) for arm in NORMS))


def _kept(values: Values, arm: str) -> float:
    """Of the difference in the shallowest network, in the deepest."""
    return values.mean(APART, arm, DEPTHS[-1]) / values.mean(APART, arm, DEPTHS[0])


def _said(values: Values, arm: str) -> str:
    apart, accuracy = (values.mean(q, arm, DEPTHS[-1]) for q in (APART, ACCURACY))
    return f'{arm}: apart by {apart:.2g}, accuracy {accuracy:.2f} at {DEPTHS[-1]} layers'


STUDY = Study(
    claim=(
        'Without norms what tells images apart vanishes with depth and a deep network does not '
        'train; with any norm, at batch size 2 too, it stays, and the network trains.'
    ),
    source='De and Smith 2020, arXiv 2002.10444, for residual networks',
    run=run,
    judge=judge,
    axis='layers',
    logarithmic=frozenset([APART]),
)
