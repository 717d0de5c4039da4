"""The studies that are on record: tables, verdicts, drawings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sbzoo.records import Measurement
from sbzoo.report.measurements import note
from sbzoo.report.tables import Cell, ResultTable
from sbzoo.studies import NAMES, study
from sbzoo.studies.base import Values, values_of

FILE = 'studies.jsonl'
HEADS = 'study', 'claim', 'verdict', 'figure', 'command'


def by_study(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Those of each study on its own data and models, in the order of `NAMES`."""
    own = [m for m in measurements if not m.row['model']]
    found = {name: [m for m in own if m.row['study'] == name] for name in NAMES}
    return {name: lines for name, lines in found.items() if lines}


def verdicts(measurements: Sequence[Measurement]) -> ResultTable:
    """A row for each study."""
    rows = []
    for name, lines in by_study(measurements).items():
        verdict = study(name).judge(values_of(lines))
        command = f'`python tools/study.py {name}`'
        texts = name, study(name).claim, verdict.word, verdict.figure, command
        rows.append(tuple(map(Cell, texts)))
    return ResultTable('studies', HEADS, rows)


def tables(measurements: Sequence[Measurement]) -> list[ResultTable]:
    """A table for each quantity of one study: mean and deviation over seeds."""
    values = values_of(measurements)
    seeds = ', '.join(str(m.row['seed']) for m in measurements)
    said = f'seeds {seeds}. {note(measurements)}'
    axis = study(measurements[0].row['study']).axis
    return [_table(quantity, values, axis, said) for quantity in values.quantities]


def _table(quantity: str, values: Values, axis: str, said: str) -> ResultTable:
    lines = values.lines(quantity)
    conditions = dict.fromkeys(c for line in lines.values() for c in line)
    rows = [
        (Cell(arm), *(Cell(_mean_and_spread(line.get(condition, ()))) for condition in conditions))
        for arm, line in lines.items()
    ]
    return ResultTable(quantity, (f'{quantity}, by {axis}', *conditions), rows, said)


def _mean_and_spread(numbers: Sequence[float]) -> str:
    """Of quantities of any magnitude."""
    spread = f' ± {statistics.stdev(numbers):.2g}' if len(numbers) > 1 else ''
    return f'{statistics.mean(numbers):.3g}{spread}' if numbers else ''
