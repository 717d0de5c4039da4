"""Contrastive learning: what a network knows by the statistics of the rank that a view is on.

Contrastive learning pulls two views of a picture together and pushes others apart. On many devices
both views are on one, and batch norm gives all that is on a rank the same statistics: the network
can tell by them what comes from where, which is no feature of a picture. MoCo shuffles views over
ranks for that reason, SimCLR synchronises the statistics. Here ranks are simulated by `ghostN`, on
the digits: how often the other view is the nearest, with the views together and on other ranks, how
many of the nearest neighbours are rank mates, and what a linear probe makes of the features. All
train by one recipe, until group norm, the slowest, has learned what the pictures are; at two and a
half times the learning rate two seeds of three have not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from sbzoo.engine.loss_normalizers import traceless
from sbzoo.studies import small
from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

RANKS, ON_RANK = 8, 4  # pictures on each rank, whose views are two each
GHOST, SYNC, GROUP = 'bn of a rank', 'syncbn', 'gn'
NORMS = {GHOST: f'ghost{2 * ON_RANK}', SYNC: 'syncbn', GROUP: 'gn8'}
STEPS, LR, TEMPERATURE = 2000, 0.02, 0.2
DRAWS, NEAREST = 20, 5  # batches that are measured, and neighbours
PRETEXT, MATES = 'other view is the nearest', 'rank mates among neighbours, over chance'
PROBE = 'accuracy of a linear probe'
TOGETHER, SHUFFLED = 'together', 'shuffled'
LEVEL = 0.02  # of accuracy, that is no difference


class Neighbours(NamedTuple):
    """How often the other view is the nearest, and rank mates among the nearest over chance."""

    pretext: float
    mates: float


def measure(embeddings: Tensor, ranks: Tensor) -> Neighbours:
    """What is near to what, by cosine similarity.

    Args:
        embeddings: [2 B, C], the second views behind the first.
        ranks: That of each, [2 B].
    """
    other = _others(len(embeddings))
    near = _similarities(embeddings)
    pretext = (near.argmax(1) == other).float().mean().item()
    near.scatter_(1, other[:, None], -torch.inf)
    mates = ranks[:, None] == ranks
    mates = mates.fill_diagonal_(False).scatter(1, other[:, None], False)
    found = mates.gather(1, near.topk(NEAREST).indices).float().mean()
    chance = mates.sum(1).float().mean() / (len(embeddings) - 2)
    return Neighbours(pretext, (found / chance).item())


def nt_xent(embeddings: Tensor, temperature: float) -> Tensor:
    """The loss of SimCLR (Chen et al. 2020, arXiv 2002.05709) of views [2 B, C], a scalar."""
    return cross_entropy(_similarities(embeddings) / temperature, _others(len(embeddings)))


def _similarities(embeddings: Tensor) -> Tensor:
    """Cosines of all pairs [2 B, 2 B], and minus infinity of each with itself."""
    unit = normalize(embeddings)
    return (unit @ unit.T).masked_fill(torch.eye(len(unit), dtype=torch.bool), -torch.inf)


def _others(count: int) -> Tensor:
    """Where the other view of each is."""
    return torch.arange(count).roll(count // 2)


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Each norm, trained with the views together, from the same weights and on the same views."""
    for arm, spec in NORMS.items():
        torch.manual_seed(seed)
        model = small.network(spec)
        train(model)
        torch.manual_seed(seed)
        found = {TOGETHER: [], SHUFFLED: []}
        with traceless(model):
            for _ in range(DRAWS):
                seen = views()
                for where, neighbours in found.items():
                    ranks = ranks_of(shuffled=where == SHUFFLED)
                    neighbours.append(measure(embed(model, seen, ranks), ranks))
        for where, neighbours in found.items():
            pretext, mates = torch.tensor(neighbours).mean(0).tolist()
            yield Value(PRETEXT, arm, where, pretext)
            yield Value(MATES, arm, where, mates)
        yield Value(PROBE, arm, TOGETHER, probe(model))


def views() -> Tensor:
    """Two views of each of some digits, [2 B, 1, 8, 8]: moved, in another contrast, and noisy."""
    images = small.digits()[0]
    chosen = images[torch.randint(len(images), (RANKS * ON_RANK,))].repeat(2, 1, 1, 1)
    moves = torch.randint(-1, 2, (len(chosen), 2)).tolist()
    moved = torch.stack([x.roll(by, (1, 2)) for x, by in zip(chosen, moves, strict=True)])
    contrast = 0.5 + torch.rand(len(moved), 1, 1, 1)
    return moved * contrast + 0.2 * torch.randn_like(moved)


def ranks_of(shuffled: bool) -> Tensor:
    """The rank of each view [2 B]; shuffled, the second are on the rank behind the first."""
    first = torch.arange(RANKS).repeat_interleave(ON_RANK)
    return torch.cat([first, (first + shuffled) % RANKS])


def embed(model: nn.Module, images: Tensor, ranks: Tensor) -> Tensor:
    """The embeddings of images [N, ...] that are on ranks [N], in their order."""
    order = ranks.argsort(stable=True)
    return model.train()(images[order])[order.argsort()]


def train(model: nn.Module) -> None:
    """By SGD with momentum on the contrastive loss over all ranks."""
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9)
    ranks = ranks_of(shuffled=False)
    for _ in range(STEPS):
        loss = nt_xent(embed(model, views(), ranks), TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def probe(model: nn.Sequential) -> float:
    """The held-out accuracy of a linear classifier on what comes before the last layer."""
    body = model[:-1].eval()
    train, test = small.digits(), small.digits(held_out=True)
    classifier = LogisticRegression(max_iter=1000).fit(body(train[0]), train[1])
    return float(classifier.score(body(test[0]), test[1]))


def judge(values: Values) -> Verdict:
    """Batch norm of a rank alone does better with views together, and has worse features."""
    gains = {arm: _gains(values, arm) for arm in NORMS}
    own, *others = (values.of(PROBE, arm, TOGETHER) for arm in NORMS)
    leaks = min(gains[GHOST]) > LEVEL and max(gains[SYNC] + gains[GROUP]) < LEVEL
    worse = all(a < min(of) for a, *of in zip(own, *others, strict=True))
    no_worse = all(a >= max(of) for a, *of in zip(own, *others, strict=True))
    said = '; '.join(f'{arm}: {_said(values, arm)}' for arm in NORMS)
    return decide(leaks and worse, max(gains[GHOST]) < LEVEL or no_worse, said)


def _gains(values: Values, arm: str) -> list[float]:
    """By how much the pretext task is solved better with the views together, by seed."""
    pairs = zip(*(values.of(PRETEXT, arm, where) for where in (TOGETHER, SHUFFLED)), strict=True)
    return [together - shuffled for together, shuffled in pairs]


def _said(values: Values, arm: str) -> str:
    pretext = [values.mean(PRETEXT, arm, where) for where in (TOGETHER, SHUFFLED)]
    return (
        f'other view nearest {pretext[0]:.2f} together, {pretext[1]:.2f} shuffled, rank mates '
        f'{values.mean(MATES, arm, TOGETHER):.2f} of chance, '
        f'probe {values.mean(PROBE, arm, TOGETHER):.2f}'
    )


STUDY = Study(
    claim=(
        'With batch norm of a rank a contrastive network tells views by the rank that they are '
        'on, and learns worse features for it; with synchronised or group norm it does neither.'
    ),
    source='He et al. 2020, arXiv 1911.05722 (MoCo); Chen et al. 2020, arXiv 2002.05709 (SimCLR)',
    run=run,
    judge=judge,
    axis='views of a picture',
)
