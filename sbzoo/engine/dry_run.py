"""`--dry-run` and `--batch auto`: what batch size fits into the memory."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import NamedTuple

import torch
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from sbzoo.engine import peak_memory
from sbzoo.engine.options.memory import set_lean
from sbzoo.engine.options.scaling import base_batch_size, total_batch_size
from sbzoo.engine.options.schedule import set_accumulate
from sbzoo.engine.peak_memory import GB
from sbzoo.engine.training_cost import STEPS, Cost, Costs, Scene, scene_of, shape_of
from sbzoo.errors import UserError

MARGIN = 0.9  # of the free memory, as it is fragmented and others take some


class Report(NamedTuple):
    """What a dry run has found: of what, the costs, and the batch sizes that fit."""

    heading: str
    table: Table
    fitting: list[int]


def dry_run(cfg: Config, batches: Iterable[int]) -> Report:
    """Measure a config at some batch sizes, with and without `--lean`."""
    scene, most = scene_of(cfg), peak_memory.free()
    costs = {name: Costs(variant, scene, most) for name, variant in _variants(cfg).items()}
    columns = [f'{column}{name}' for name in costs for column in ('peak GB', 's a batch')]
    table = Table('batch', *columns)
    with Console(stderr=True).status('') as status:
        for batch in batches:
            status.update(f'measuring batch {batch}')
            cells = (_cells(of_variant[batch]) for of_variant in costs.values())
            table.add_row(str(batch), *(cell for pair in cells for cell in pair))
    height, width = shape_of(cfg, scene, max(batches))
    boxes = f', {scene.boxes} boxes' if scene.boxes else ''
    heading = f'{height} x {width} pixels{boxes}; {most / GB:.1f} GB free; {_measured_as()}'
    return Report(heading, table, [batch for batch in batches if costs[''][batch]])


def _variants(cfg: Config) -> dict[str, Config]:
    """As it is, and lean if it is not."""
    lean = deepcopy(cfg)
    set_lean(lean)
    return {'': cfg} | ({', --lean': lean} if lean.to_dict() != cfg.to_dict() else {})


def _measured_as() -> str:
    if peak_memory.on_gpu():
        return f'peak is what torch allocates on {torch.cuda.get_device_name()}'
    threads = torch.get_num_threads()
    return f'peak is what a process grows by, on {threads} CPU thread(s)'


def _cells(cost: Cost | None) -> tuple[str, str]:
    return (f'{cost.peak / GB:.3g}', f'{cost.seconds:.2g}') if cost else ('does not fit', '-')


class Fit(NamedTuple):
    """The batch size that fits, and the accumulation that keeps the nominal batch size with it."""

    batch: int
    accumulate: int
    reason: str


def fit(cfg: Config) -> Fit:
    """What `--batch auto` stands for; see `largest_that_fits`.

    Raises:
        UserError: One picture does not fit, or this system does not tell how much memory it has.
    """
    nominal = base_batch_size(cfg) or total_batch_size(cfg)
    set_accumulate(cfg, STEPS)  # gradients are held from one batch to the next
    scene = scene_of(cfg)
    costs = Costs(cfg, scene, peak_memory.free() - _waiting(cfg, scene, nominal))
    batch = largest_that_fits(costs, nominal)
    counts = batch, nominal // batch
    peak, most = costs[batch].peak / GB, costs.most / GB
    reason = (
        f'batch auto: --batch {batch} takes {peak:.2f} of {most:.2f} GB free, and --accumulate '
        f'{counts[1]} keeps the batch size of {nominal} that the config is for'
    )
    return Fit(*counts, reason)


def _waiting(cfg: Config, scene: Scene, pictures: int) -> int:
    """The bytes of an update's pictures, which wait in the memory of the machine, three a pixel."""
    height, width = shape_of(cfg, scene, pictures)
    return 0 if peak_memory.on_gpu() else 3 * height * width * pictures


def largest_that_fits(costs: Costs, nominal: int) -> int:
    """The largest divisor of a nominal batch size that fits into the memory.

    Memory is linear in the batch size, so two measurements tell which to try first.

    Raises:
        UserError: One picture does not fit.
    """
    divisors = [d for d in range(1, nominal + 1) if nominal % d == 0]
    if not _fits(costs, 1):
        raise UserError(
            f'--batch auto: not even one picture fits into {costs.most / GB:.2f} GB; --lean and '
            '--amp take less'
        )
    if len(divisors) == 1 or not _fits(costs, divisors[1]):
        return 1
    slope = (costs[divisors[1]].peak - costs[1].peak) / (divisors[1] - 1)
    likely = [d for d in divisors if costs[1].peak + slope * (d - 1) <= MARGIN * costs.most]
    return next(d for d in reversed(likely) if _fits(costs, d))


def _fits(costs: Costs, batch: int) -> bool:
    cost = costs[batch]
    return cost is not None and cost.peak <= MARGIN * costs.most
