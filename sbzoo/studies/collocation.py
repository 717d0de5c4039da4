"""Physics-informed networks: error and memory by collocation points and batch size.

The loss of a physics-informed network is the squared residual of an equation, a mean over points of
its domain, with derivatives that autograd keeps for each point. Many points make it accurate, and a
batch of few of them at a step bounds the memory: here of Poisson's equation on the unit square with
the solution sin(pi x) sin(pi y), which is zero at the border, as the network is by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sbzoo.studies.base import Study, Value, Values, Verdict, decide
from sbzoo.studies.subject import Subject

CASES = {  # points and batch size
    '64 at once': (64, 64),
    '1024 at once': (1024, 1024),
    '16384 by 64': (16384, 64),
}
STEPS, LR, WIDTH = 3000, 3e-3, 32
ERROR, MEMORY = 'relative error of the solution', 'MiB kept by autograd'


class Cost(NamedTuple):
    """Of a training: the relative L2 error on a grid, and the most bytes that autograd keeps."""

    error: float
    saved: int


def solution(points: Tensor) -> Tensor:
    """Of points [N, 2]: [N]."""
    return torch.sin(math.pi * points).prod(1)


def residual(model: nn.Module, points: Tensor) -> Tensor:
    """Laplacian of the network minus that of the solution, [N], of points [N, 2]."""
    points = points.requires_grad_()
    (slope,) = torch.autograd.grad(value(model, points).sum(), points, create_graph=True)
    second = (
        torch.autograd.grad(slope[:, i].sum(), points, create_graph=True)[0][:, i] for i in (0, 1)
    )
    return sum(second) + 2 * math.pi**2 * solution(points)


def value(model: nn.Module, points: Tensor) -> Tensor:
    """Of points [N, 2] to [N], zero at the border."""
    return model(points)[:, 0] * (points * (1 - points)).prod(1) * 16


def measure(points: int, batch: int, steps: int) -> Cost:
    """Train on a fixed set of points, `batch` of them a step."""
    layers = nn.Linear(2, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 1))
    optimizer = torch.optim.Adam(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    domain, saved = torch.rand(points, 2), 0
    for _ in range(steps):
        chosen = domain[torch.randperm(points)[:batch]] if batch < points else domain.clone()
        kept = Kept()
        with saved_tensors_hooks(kept.pack, lambda x: x):
            loss = residual(model, chosen).square().mean()
        saved = max(saved, kept.bytes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Cost(_error(model), saved)


class Kept:
    """Counts the bytes of the tensors that autograd keeps, each storage once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(self.storages.values())

    def pack(self, x: Tensor) -> Tensor:
        """Count a tensor that is to be kept."""
        storage = x.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return x


@torch.no_grad()
def _error(model: nn.Module) -> float:
    axis = torch.linspace(0, 1, 65)
    grid = torch.cartesian_prod(axis, axis)
    truth = solution(grid)
    return ((value(model, grid) - truth).norm() / truth.norm()).item()


def run(seed: int, subject: Subject | None) -> Iterator[Value]:
    """Each case, from the same weights."""
    for arm, (points, batch) in CASES.items():
        torch.manual_seed(seed)
        cost = measure(points, batch, STEPS)
        yield Value(ERROR, arm, f'{STEPS} steps', cost.error)
        yield Value(MEMORY, arm, f'{STEPS} steps', cost.saved / 2**20)


def judge(values: Values) -> Verdict:
    """As accurate as the large batch, in the memory of the small one."""
    few, all_at_once, batched = (_of(values, ERROR, arm) for arm in CASES)
    memory = [values.mean(MEMORY, arm, f'{STEPS} steps') for arm in CASES]
    saves = memory[2] < 0.1 * memory[1]
    said = '; '.join(
        f'{arm}: error {values.mean(ERROR, arm, f"{STEPS} steps"):.2g}, {mib:.2f} MiB'
        for arm, mib in zip(CASES, memory, strict=True)
    )
    confirmed = saves and max(batched) < 2 * max(all_at_once) and max(batched) < min(few)
    return decide(confirmed, not saves or min(batched) > 2 * max(all_at_once), said)


def _of(values: Values, quantity: str, arm: str) -> list[float]:
    return values.of(quantity, arm, f'{STEPS} steps')


STUDY = Study(
    claim=(
        'A physics-informed network that sees many collocation points, few at a step, is as '
        'accurate as one that sees many at once, in the memory of few.'
    ),
    source='Raissi, Perdikaris and Karniadakis 2019, J. Comput. Phys. 378, on mini-batches',
    run=run,
    judge=judge,
    axis='training',
    logarithmic=frozenset([ERROR, MEMORY]),
)
