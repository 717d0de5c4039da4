"""Benchmarks of memory and speed as tables, machine by machine."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from sbzoo.engine.peak_memory import GB
from sbzoo.records import Measurement, read_measurements
from sbzoo.report.tables import Cell, ResultTable, mean_std

# Benchmarks whose files hold no training runs.
MEASURED = (
    *(
        'norm',
        'padding',
        'memory',
        'train',
        'ranks',
        'ap',
        'fid',
        'labels',
        'droplets',
        'stack',
        'batch',
        'light',
        'conversion',
        'fine_tuning',
        'gan',
        'studies',
    ),
)
NUMBER = re.compile(r'\d+(?:\.\d+)?(?:/\d+)?')  # 8, 0.33, 1/3
OF_GPUS = 'gpu_*.jsonl'  # theirs, a file for each kind


Measured = Mapping[str, Sequence[Measurement]]  # by benchmark


def read_all(folder: Path) -> dict[str, list[Measurement]]:
    """Those of every benchmark, and under `gpu` those of all GPUs.

    Raises:
        UserError: A line is not a measurement.
    """
    found = {name: read_measurements(folder / f'{name}.jsonl') for name in MEASURED}
    gpus = sorted(folder.glob(OF_GPUS))
    return found | dict(gpu=[m for path in gpus for m in read_measurements(path)])


def holds_measurements(path: Path) -> bool:
    """Whether a file of results holds measurements, and not training runs."""
    return path.stem in MEASURED or path.match(OF_GPUS)


def by_machine(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    """Group measurements that are comparable, by the machine in words."""
    found: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        found[measurement.where].append(measurement)
    return found


def note(measurements: Sequence[Measurement]) -> str:
    """Machine, protocol, versions and days of a table."""
    places = [m.where for m in measurements]
    protocols = [_listed(m.protocol) for m in measurements]
    versions = [_listed(m.versions) for m in measurements]
    facts = (places, protocols, versions, [m.date for m in measurements])
    return '. '.join(' / '.join(dict.fromkeys(said)) for said in facts if any(said)) + '.'


def _listed(facts: Mapping[str, Any]) -> str:
    return ', '.join(f'{key} {value}' for key, value in facts.items())


def norm_times(measured: Measured, compiled: bool | None = None) -> list[ResultTable]:
    """Milliseconds by layer, and by shape and memory format; by default plain and compiled."""
    if compiled is None:
        return norm_times(measured, False) + norm_times(measured, True)
    chosen = (m for m in measured['norm'] if m.row['compiled'] == compiled)
    title = 'ms, forward and backward' + ', compiled' * compiled
    return [pivot(title, group) for group in by_machine(chosen).values()]


def pivot(title: str, measurements: Sequence[Measurement], figure: str = 'ms') -> ResultTable:
    """A figure by layer, and by shape and memory format."""
    times = {(m.row['layer'], _map(m)): three_digits(m.figures[figure]) for m in measurements}
    layers, maps = (dict.fromkeys(key) for key in zip(*times, strict=True))
    rows = [(Cell(n), *(Cell(times.get((n, size), '')) for size in maps)) for n in layers]
    return ResultTable(title, (title, *maps), rows, note(measurements))


def three_digits(value: float) -> str:
    """A number as tables show it."""
    return f'{value:.3g}' if value < 1000 else f'{value:.0f}'


def _map(measurement: Measurement) -> str:
    shape = 'x'.join(map(str, measurement.row['shape']))
    return shape + ', last' * (measurement.row['memory_format'] == 'channels_last')


def padded_norms(measured: Measured) -> list[ResultTable]:
    """Milliseconds of norms that leave padding out, beside the same on full maps."""
    return [padded_norms_of(group) for group in by_machine(measured['padding']).values()]


def padded_norms_of(measurements: Sequence[Measurement]) -> ResultTable:
    """Those of one machine."""
    rows = []
    for m in measurements:
        full, padded = m.figures['full_ms'], m.figures['padded_ms']
        ratio = f'{padded / full:.2f}'
        texts = m.row['layer'], _map(m), three_digits(full), three_digits(padded), ratio
        rows.append(tuple(map(Cell, texts)))
    heads = 'ms, forward and backward', 'maps', 'full', '25% padding', 'ratio'
    return ResultTable('padded norms', heads, rows, note(measurements))


def memory(measured: Measured) -> list[ResultTable]:
    """Activation memory, peak and time of a training step; differences of gradients."""
    return [_memory(group) for group in by_machine(measured['memory']).values()]


def _memory(measurements: Sequence[Measurement]) -> ResultTable:
    heads = ('model', 'activations', 'ratio', 'peak', 'step', 'ratio', 'gradients differ by')
    first = measurements[0].figures['activations_bytes']
    rows = []
    for name, figures in ((m.row['model'], m.figures) for m in measurements):
        activations, peak = figures['activations_bytes'], figures['peak_bytes']
        texts = (
            *(name, f'{activations / GB:.2f} GB', f'{activations / first:.2f}'),
            *(f'{peak / GB:.2f} GB', f'{figures["seconds"]:.1f} s'),
            *(f'{figures["relative_seconds"]:.2f}', f'{figures["gradient_difference"]:.0e}'),
        )
        rows.append(tuple(map(Cell, texts)))
    return ResultTable('memory', heads, rows, note(measurements))


def training_and_ap(measured: Measured) -> list[ResultTable]:
    """Throughput of training and time of a COCO evaluation, beside MMDetection."""
    return compared('MMDetection', [*measured['train'], *measured['ap']])


def scaling(measured: Measured) -> list[ResultTable]:
    """Throughput of two ranks, and of two processes that share nothing but the machine."""
    return [_scaling(group) for group in by_machine(measured['ranks']).values()]


def _scaling(measurements: Sequence[Measurement]) -> ResultTable:
    heads = 'averaged over ranks', 'one process', 'two processes', 'two ranks', 'of two processes'
    rows = []
    for name, figures in ((m.row['training'], m.figures) for m in measurements):
        two, ranks = figures['side_by_side'], figures['ranks']
        one = f'{three_digits(figures["images_per_second"])} images/s'
        rows.append(tuple(map(Cell, (name, one, *(f'{x:.2f}' for x in (two, ranks, ranks / two))))))
    return ResultTable('scaling', heads, rows, note(measurements))


def small_batches(measured: Measured) -> list[ResultTable]:
    """What a small batch needs beside a norm."""
    return studies(measured['batch'])


def own_light(measured: Measured) -> list[ResultTable]:
    """Norms where each picture has its own light."""
    return studies(measured['light'])


def converted(measured: Measured) -> list[ResultTable]:
    """What is left of a network of ImageNet under other norms."""
    return studies(measured['conversion'])


def fine_tuned(measured: Measured) -> list[ResultTable]:
    """What a detector has of that network."""
    return studies(measured['fine_tuning'])


def gans(measured: Measured) -> list[ResultTable]:
    """Norms and batch sizes of a GAN."""
    return studies(measured['gan'])


def studies(measurements: Iterable[Measurement]) -> list[ResultTable]:
    """A table for each figure of each study: mean and deviation over seeds."""
    found: dict[tuple[str, str, str], list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        for figure in measurement.figures:
            found[measurement.row['study'], figure, measurement.where].append(measurement)
    return [_study(study, figure, group) for (study, figure, _), group in found.items()]


def _study(study: str, figure: str, measurements: Sequence[Measurement]) -> ResultTable:
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for m in measurements:
        cells[m.row['arm'], m.row['condition']].append(m.figures[figure])
    arms, conditions = (dict.fromkeys(key) for key in zip(*cells, strict=True))
    conditions = sorted(conditions, key=lambda c: [*map(Fraction, NUMBER.findall(c))])
    rows = [
        (Cell(arm), *(Cell(mean_std(cells.get((arm, c), ()))) for c in conditions)) for arm in arms
    ]
    seeds = sorted({m.row['seed'] for m in measurements})
    said = f'Seeds {", ".join(map(str, seeds))}. {note(measurements)}'
    head = f'{study}, {"AP" if figure == "bbox_mAP" else figure}'
    return ResultTable(study, (head, *conditions), rows, said)


def fid(measured: Measured) -> list[ResultTable]:
    """The parts of an FID, by pytorch-fid and by this library."""
    return compared('pytorch-fid', measured['fid'])


def compared(peer: str, measurements: Sequence[Measurement]) -> list[ResultTable]:
    """A table with a row for each measurement of both sides; none if there is no measurement."""
    if not measurements:
        return []
    heads = ('', 'machine', peer, 'sbzoo', 'ratio', 'results differ by')
    rows = [tuple(map(Cell, _compared(m))) for m in measurements]
    rest = [m._replace(machine=measurements[0].machine) for m in measurements]
    said = note(rest).removeprefix(f'{rest[0].where}. ')  # machines are in the rows
    return [ResultTable(f'beside {peer}', heads, rows, said)]


def _compared(measurement: Measurement) -> tuple[str, ...]:
    figures = measurement.figures
    numbers = (three_digits(figures[side]) for side in ('peer', 'sbzoo'))
    difference = f'{figures["difference"]:.0e}' if 'difference' in figures else ''
    what = measurement.row['what'], measurement.where
    return *what, *numbers, f'{figures["ratio"]:.2f}', difference


COSTS: dict[str, Callable[[Measured], list[ResultTable]]] = {
    'Memory of a training step': memory,
    'Norm layers': norm_times,
    'Norms of padded pictures': padded_norms,
    'Training and AP': training_and_ap,
    'Two ranks': scaling,
    'Small batches': small_batches,
    'Pictures with their own light': own_light,
    'A network of ImageNet under other norms': converted,
    'That network in a detector': fine_tuned,
    'GANs by norm and batch size': gans,
    'FID': fid,
}
