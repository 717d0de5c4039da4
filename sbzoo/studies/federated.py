"""Federated averaging over clients whose data differ, by norm.

Federated averaging (FedAvg) trains a model on each client for a while and averages the weights.
Where clients differ in style (light, contrast), batch norm's running statistics are of a client
that does not exist once they are averaged; FedBN keeps batch norm, weights and statistics, on its
client. Norms of a sample have nothing to keep. Where clients differ in classes, the drift of the
weights is what hurts, whatever the norm. After a third of these rounds instance norm, the slowest,
is no better than batch norm.

On real devices the same is a strategy of Flower (flwr): a client trains by `small.train` in `fit`,
and leaves out of `get_parameters` what FedBN keeps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

NORMS = {'bn': 'bn', 'FedBN': 'bn', 'in': 'in', 'gn': 'gn8', 'ln': 'ln', 'hybrid': 'hybrid'}
PER_SAMPLE = 'in', 'gn', 'ln'
CLIENTS, ROUNDS, STEPS, BATCH, LR = 5, 60, 20, 8, 0.02
STYLE, CLASSES = 'clients differ in light', 'clients differ in classes'
ACCURACY = 'accuracy of the average'
LEVEL = 0.05  # of accuracy, that is no difference

Weights = dict[str, Tensor]


class Client(NamedTuple):
    """What a client has: images [N, 1, 8, 8] and labels [N], to train on and to be tested on."""

    images: Tensor
    labels: Tensor
    held_out: tuple[Tensor, Tensor]


def measure(states: Sequence[Weights]) -> Weights:
    """The mean of the state dicts of clients with equally many images; counters are the first's."""
    return {
        key: torch.stack([state[key] for state in states]).mean(0)
        if first.is_floating_point()
        else first
        for key, first in states[0].items()
    }


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Each norm, from the same weights, with clients of each kind."""
    for kind, clients in ((STYLE, by_light()), (CLASSES, by_classes())):
        for arm, spec in NORMS.items():
            torch.manual_seed(seed)
            yield Value(ACCURACY, arm, kind, train(spec, clients, arm == 'FedBN'))


def train(spec: str, clients: Sequence[Client], keeps_bn: bool) -> float:
    """Federated averaging: the mean accuracy that clients have on what is held out of theirs."""
    server = small.network(spec)
    kept = [name for name in server.state_dict() if keeps_bn and _is_of_bn(server, name)]
    models = [copy.deepcopy(server) for _ in clients]
    for _ in range(ROUNDS):
        for model, client in zip(models, clients, strict=True):
            small.train(model, client.images, client.labels, STEPS, BATCH, LR)
        mean = measure([model.state_dict() for model in models])
        shared = {key: value for key, value in mean.items() if key not in kept}
        for model in models:
            model.load_state_dict(model.state_dict() | shared)
    found = (small.accuracy(m, *c.held_out) for m, c in zip(models, clients, strict=True))
    return sum(found) / len(clients)


def _is_of_bn(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition('.')[0]), _BatchNorm)


def by_light() -> list[Client]:
    """Each client has a fifth of the digits, in its own contrast and level."""
    contrasts = torch.linspace(0.2, 1, CLIENTS)
    levels = torch.linspace(-0.8, 0.8, CLIENTS)[torch.randperm(CLIENTS)]
    parts = [_part(small.digits(), i) for i in range(CLIENTS)]
    tests = [_part(small.digits(held_out=True), i) for i in range(CLIENTS)]
    return [
        Client(x * contrast + level, y, (tx * contrast + level, ty))
        for (x, y), (tx, ty), contrast, level in zip(parts, tests, contrasts, levels, strict=True)
    ]


def by_classes() -> list[Client]:
    """Each client has two of the ten digits, and all are tested on all."""
    images, labels = small.digits()
    chosen = [labels // 2 == client for client in range(CLIENTS)]
    return [Client(images[of], labels[of], small.digits(held_out=True)) for of in chosen]


def _part(data: tuple[Tensor, Tensor], client: int) -> tuple[Tensor, Tensor]:
    images, labels = data
    return images[client::CLIENTS], labels[client::CLIENTS]


def judge(values: Values) -> Verdict:
    """By style batch norm is behind, FedBN and norms of a sample are not; by classes all are."""
    bn, kept = (values.of(ACCURACY, arm, STYLE) for arm in ('bn', 'FedBN'))
    others = [values.of(ACCURACY, arm, STYLE) for arm in PER_SAMPLE]
    behind = max(bn) + LEVEL < min(kept) and max(bn) + LEVEL < min(map(min, others))
    level = min(map(max, [kept, bn, *others])) > max(map(min, others)) - LEVEL
    said = '; '.join(
        f'{arm} {values.mean(ACCURACY, arm, STYLE):.2f}, {values.mean(ACCURACY, arm, CLASSES):.2f}'
        for arm in NORMS
    )
    refuted = level or min(bn) > max(map(max, others))
    return decide(behind, refuted, f'accuracy by light, by classes: {said}')


STUDY = Study(
    claim=(
        'Averaged over clients whose pictures differ in light, batch norm fails; kept on its '
        'client (FedBN) it does not, and norms of a sample have no such trouble.'
    ),
    source='FedBN: Li et al. 2021, arXiv 2102.07623; against it arXiv 2303.06530',
    run=run,
    judge=judge,
    axis='how clients differ',
)
