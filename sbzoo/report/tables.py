"""The tables of the report. Each is written as Markdown and as HTML from the same cells."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from sbzoo.checkpoint.cards import FILE, TASKS, Card
from sbzoo.report.gather import ASIDE, Experiment, Experiments, TrainingRun

LOWER = ('FD', 'FID', 'KID')  # names that begin so are distances
SECONDARY = ('box AP50',)
MEMORY = 'memory, GB'
MEAN = 'mean ± standard deviation'  # behind the number of a card's weights


class Cell(NamedTuple):
    """What stands in a table; the note goes below its text, `alpha` is drawn beside it."""

    text: str
    href: str = ''
    note: str = ''
    alpha: float | None = None


class ResultTable(NamedTuple):
    """Rows below their heads, and a note on the protocol."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ''


Line = tuple[Cell, str, str, dict[str, str]]  # name and protocol, norm, batch, numbers


def markdown(table: ResultTable) -> str:
    """A table in GitHub's Markdown, under its title."""
    return '\n\n'.join(text for text in (f'### {table.title}', table.note, body(table)) if text)


def body(table: ResultTable) -> str:
    """The rows of a table in GitHub's Markdown."""
    lines = [table.heads, ('---',) * len(table.heads)]
    lines += [tuple(_linked(cell) for cell in row) for row in table.rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _linked(cell: Cell) -> str:
    text, note = (s.replace('|', '\\|').replace('<', '&lt;') for s in (cell.text, cell.note))
    linked = f'[{text}]({cell.href})' if cell.href else text
    return f'{linked}: {note}' if note else linked


def metrics_of(experiment: Experiment) -> list[str]:
    """The names of the metrics that any run has, in their order."""
    names = dict.fromkeys(n for runs in experiment.values() for run in runs for n in run.metrics)
    return [name for name in names if name not in SECONDARY]


def batches_of(experiment: Experiment) -> list[int]:
    """The batches, the smallest first."""
    return sorted({batch for _, batch in experiment})


def column(metric: str, batch: int) -> str:
    """The head of a column, and of the plot that shows it."""
    return f'{metric}, batch {batch}' if batch else f'{metric}, no training'


def values(runs: Sequence[TrainingRun], metric: str) -> list[float]:
    """A metric by seed."""
    return [run.metrics[metric] for run in runs if metric in run.metrics]


def mean_std(numbers: Sequence[float], decimals: int = 3) -> str:
    """Mean ± standard deviation; of one number itself, of none nothing."""
    spread = f' ± {statistics.stdev(numbers):.{decimals}f}' if len(numbers) > 1 else ''
    return f'{statistics.mean(numbers):.{decimals}f}{spread}' if numbers else ''


def decimals_of(metric: str) -> int:
    """How many digits of a metric are worth showing."""
    return 4 if metric.startswith('KID') else 3


def by_norm_and_batch(title: str, protocol: str, experiment: Experiment) -> ResultTable:
    """Mean and spread over the seeds of each metric, by norm and batch."""
    columns = [
        (metric, batch) for metric in metrics_of(experiment) for batch in batches_of(experiment)
    ]
    rows = [
        (
            Cell(label),
            *(
                Cell(mean_std(values(experiment.get((label, b), ()), m), decimals_of(m)))
                for m, b in columns
            ),
        )
        for label in dict.fromkeys(label for label, _ in experiment)
    ]
    seeds = sorted({run.seed for runs in experiment.values() for run in runs})
    note = f'{protocol}. Mean ± standard deviation over the seeds {", ".join(map(str, seeds))}.'
    heads = ('norm', *(column(m, b) for m, b in columns))
    return ResultTable(
        title, heads, rows, note if len(seeds) > 1 else f'{protocol}. Seed {seeds[0]}.'
    )


def alphas(title: str, experiment: Experiment) -> ResultTable | None:
    """Learned alphas by layer; None if there are none."""
    learned = {key: runs for key, runs in experiment.items() if key[1] and runs[0].alphas}
    if not learned:
        return None
    layers = dict.fromkeys(name for runs in learned.values() for run in runs for name in run.alphas)
    heads = ('layer', *(column(label, batch) for label, batch in learned))
    rows = [
        (
            Cell(layer),
            *(
                _alpha([r.alphas[layer] for r in runs if layer in r.alphas])
                for runs in learned.values()
            ),
        )
        for layer in layers
    ]
    note = 'The fraction that comes from the first norm of the mix; a dot on its way from 0 to 1.'
    return ResultTable(title, heads, rows, note)


def _alpha(numbers: Sequence[float]) -> Cell:
    mean = sum(numbers) / len(numbers) if numbers else None
    return Cell(mean_std(numbers, 2), alpha=mean)


def ours(task: str, cards: Sequence[Card], found: Experiments, out: Path) -> ResultTable:
    """Our models of a task: the cards, with the means of their runs, and runs that have none."""
    mine = {card.name: _card(card, out) for card in cards if card.task == task and card.is_ours}
    others = []
    for line in _of_runs(task, found):
        name = line[0].text
        if name not in mine:
            others.append(line)
        elif MEAN not in mine[name][0].note:  # the card's own runs come first, then the first found
            mine[name] = _beside(mine[name], line)
    return _wide(f'Ours: {TASKS[task]}', [*mine.values(), *others])


def _of_runs(task: str, found: Experiments) -> Iterator[Line]:
    for (source, its_task, _, protocol), experiment in found.items():
        for (label, batch), runs in experiment.items():
            if its_task == task and not runs[0].variant:
                numbers = {m: mean_std(values(runs, m), decimals_of(m)) for m in runs[0].metrics}
                said = f'{protocol}; {source}; {len(runs)} seed{"s" if len(runs) > 1 else ""}'
                yield Cell(runs[0].name, note=said), label, str(batch), numbers


def _beside(card: Line, runs: Line) -> Line:
    """A card's line with the means of runs behind its own numbers."""
    (name, norm, batch, numbers), means = card, runs[3]
    joined = {m: f'{own}; {means[m]}' if m in means else own for m, own in numbers.items()}
    return name._replace(note=f'{name.note}; {MEAN}: {runs[0].note}'), norm, batch, joined


def theirs(task: str, cards: Sequence[Card], out: Path) -> ResultTable:
    """The published checkpoints of a task."""
    listed = (card for card in cards if card.task == task and not card.is_ours)
    return _wide(f'Published: {TASKS[task]}', [_card(card, out) for card in listed])


def _card(card: Card, out: Path) -> Line:
    link = quote(Path(os.path.relpath(card.folder / FILE, out)).as_posix())
    batch = f'{card.batch or ""}' + (f' x {card.devices}' if (card.devices or 1) > 1 else '')
    numbers = {}
    seed = f' (seed {card.seeds[0]})' if card.is_ours and card.seeds else ''
    for result in (r for r in card.results if not r.metric.endswith(ASIDE)):
        spread = '' if result.mean is None else f'; {result.mean} ± {result.std}'
        numbers[result.metric] = f'{result.value}{seed}{spread}'
    if card.memory:
        numbers[MEMORY] = f'{card.memory:g}'
    protocols = dict.fromkeys(', '.join(filter(None, (r.protocol, r.split))) for r in card.results)
    has_mean = any(result.mean is not None for result in card.results)
    spread = f'{MEAN} of {len(card.seeds)} seeds' if has_mean else ''
    facts = (*protocols, card.data, card.training, spread)
    note = '; '.join(fact for fact in facts if fact)
    return Cell(card.name, link, note), card.norm, batch, numbers


def _wide(title: str, lines: Sequence[Line]) -> ResultTable:
    metrics = dict.fromkeys(name for *_, numbers in lines for name in numbers)
    columns = sorted(metrics, key=lambda name: name == MEMORY)  # which comes last
    rows = [
        (name, Cell(norm), Cell(batch), *(Cell(numbers.get(m, '')) for m in columns))
        for name, norm, batch, numbers in sorted(lines, key=lambda line: line[1])
    ]
    return ResultTable(title, ('model and protocol', 'norm', 'batch size', *columns), rows)
