"""What was measured on GPUs as tables, machine by machine and section by section."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from sbzoo.engine.peak_memory import GB
from sbzoo.records import Measurement
from sbzoo.report.measurements import compared, note, padded_norms_of, pivot, three_digits
from sbzoo.report.tables import Cell, ResultTable

WALL, KERNELS = 'ms, forward and backward', 'ms of the GPU alone'
Tables = Callable[[Sequence[Measurement]], list[ResultTable]]


def tables(measured: Sequence[Measurement]) -> list[ResultTable]:
    """The tables of each machine and section."""
    found: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for measurement in measured:
        found[measurement.where, measurement.row['section']].append(measurement)
    return [
        table._replace(title=f'{section} on {lines[0].machine["gpu"]}')
        for (_, section), lines in found.items()
        for table in _SECTIONS[section](lines)
    ]


def _norms(measured: Sequence[Measurement]) -> list[ResultTable]:
    """Milliseconds by layer and map, with and without what the host takes."""
    timed = [m for m in measured if 'kernels_ms' in m.figures]
    alone = [pivot(KERNELS, timed, 'kernels_ms')] if timed else []
    return [pivot(WALL, measured), *alone]


def _padding(measured: Sequence[Measurement]) -> list[ResultTable]:
    return [padded_norms_of(measured)]


def _detector(measured: Sequence[Measurement]) -> list[ResultTable]:
    """Throughput and peak memory of training, each beside that of the first model."""
    heads = 'training', 'batch', 'images/s', 'ratio', 'peak', 'ratio'
    first = {m.row['batch']: m.figures for m in reversed(measured)}
    rows = [tuple(map(Cell, _row(m, first[m.row['batch']]))) for m in measured]
    return [ResultTable('training', heads, rows, note(measured))]


def _row(m: Measurement, first: dict[str, float]) -> tuple[str, ...]:
    speed, peak = m.figures['images_per_second'], m.figures['peak_bytes']
    faster, more = 1 / m.figures['relative_seconds'], peak / max(first['peak_bytes'], 1)
    memory = f'{peak / GB:.2f} GB', f'{more:.2f}'
    return m.row['model'], f'{m.row["batch"]}', three_digits(speed), f'{faster:.2f}', *memory


def _fid(measured: Sequence[Measurement]) -> list[ResultTable]:
    return compared('pytorch-fid', measured)


_SECTIONS: dict[str, Tables] = {
    **dict.fromkeys(('float32', 'bfloat16', 'compiled-float32', 'compiled-bfloat16'), _norms),
    'padding': _padding,
    **dict.fromkeys(('retinanet', 'mask-rcnn'), _detector),
    'fid': _fid,
}
