"""The tables of the report. Each is written as Markdown and as HTML from the same cells."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from benchmarks import runs as bench

from sbzoo.checkpoint.cards import FILE, TASKS, Card
from sbzoo.paths import ROOT
from sbzoo.report.gather import ASIDE, Cells, Run

LOWER = ('FD', 'FID', 'KID')  # names that begin so are distances
SECONDARY = ('box AP50',)
MEMORY = 'memory, GB'
MEAN = 'mean ± standard deviation'  # behind the number of a card's weights
README = ROOT / 'README.md'


class Cell(NamedTuple):
    """What stands in a table; the note goes below its text, `alpha` is drawn beside it."""

    text: str
    href: str = ''
    note: str = ''
    alpha: float | None = None


class Table(NamedTuple):
    """Rows below their heads, and a note on the protocol."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ''


Line = tuple[Cell, str, str, dict[str, str]]  # name and protocol, norm, batch, numbers


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, under its title."""
    lines = [table.heads, ('---',) * len(table.heads)]
    lines += [tuple(_linked(cell) for cell in row) for row in table.rows]
    body = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    return '\n\n'.join(text for text in (f'### {table.title}', table.note, body) if text)


def _linked(cell: Cell) -> str:
    text, note = (s.replace('|', '\\|').replace('<', '&lt;') for s in (cell.text, cell.note))
    linked = f'[{text}]({cell.href})' if cell.href else text
    return f'{linked}: {note}' if note else linked


def metrics_of(cells: Cells) -> list[str]:
    """The names of the metrics that any run has, in their order."""
    runs = (run for cell in cells.values() for run in cell)
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    return [name for name in names if name not in SECONDARY]


def batches_of(cells: Cells) -> list[int]:
    """The batches, the smallest first."""
    return sorted({batch for _, batch in cells})


def column(metric: str, batch: int) -> str:
    """The head of a column, and of the plot that shows it."""
    return f'{metric}, batch {batch}' if batch else f'{metric}, no training'


def values(cell: Sequence[Run], metric: str) -> list[float]:
    """A metric by seed."""
    return [run.metrics[metric] for run in cell if metric in run.metrics]


def mean_and_spread(numbers: Sequence[float], metric: str) -> str:
    """Mean ± standard deviation over seeds, in the digits that the metric is worth."""
    return bench.cell(numbers, 4 if metric.startswith('KID') else 3)


def by_norm_and_batch(title: str, protocol: str, cells: Cells) -> Table:
    """Mean and spread over the seeds of each metric, by norm and batch."""
    columns = [(metric, batch) for metric in metrics_of(cells) for batch in batches_of(cells)]
    rows = [
        (
            Cell(label),
            *(Cell(mean_and_spread(values(cells.get((label, b), ()), m), m)) for m, b in columns),
        )
        for label in dict.fromkeys(label for label, _ in cells)
    ]
    seeds = sorted({run.seed for cell in cells.values() for run in cell})
    note = f'{protocol}. Mean ± standard deviation over the seeds {", ".join(map(str, seeds))}.'
    heads = ('norm', *(column(m, b) for m, b in columns))
    return Table(title, heads, rows, note if len(seeds) > 1 else f'{protocol}. Seed {seeds[0]}.')


def alphas(title: str, cells: Cells) -> Table | None:
    """Learned alphas by layer; None if there are none."""
    learned = {key: cell for key, cell in cells.items() if key[1] and cell[0].alphas}
    if not learned:
        return None
    layers = dict.fromkeys(name for cell in learned.values() for run in cell for name in run.alphas)
    heads = ('layer', *(column(label, batch) for label, batch in learned))
    rows = [
        (
            Cell(layer),
            *(
                _alpha([r.alphas[layer] for r in cell if layer in r.alphas])
                for cell in learned.values()
            ),
        )
        for layer in layers
    ]
    note = 'The fraction that comes from the first norm of the mix; a dot on its way from 0 to 1.'
    return Table(title, heads, rows, note)


def _alpha(numbers: Sequence[float]) -> Cell:
    mean = sum(numbers) / len(numbers) if numbers else None
    return Cell(bench.cell(numbers, 2), alpha=mean)


def ours(task: str, cards: Sequence[Card], found: dict[tuple, Cells], out: Path) -> Table:
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


def _of_runs(task: str, found: dict[tuple, Cells]) -> Iterator[Line]:
    for (source, its_task, model, protocol), cells in found.items():
        for (label, batch), cell in cells.items():
            if its_task == task and not cell[0].variant:
                name = f'{model}_{label}_b{batch}' if cell[0].norm else f'{model}_b{batch}'
                numbers = {m: mean_and_spread(values(cell, m), m) for m in cell[0].metrics}
                said = f'{protocol}; {source}; {len(cell)} seed{"s" if len(cell) > 1 else ""}'
                yield Cell(name, note=said), label, str(batch), numbers


def _beside(card: Line, runs: Line) -> Line:
    """A card's line with the means of runs behind its own numbers."""
    (name, norm, batch, numbers), means = card, runs[3]
    joined = {m: f'{own}; {means[m]}' if m in means else own for m, own in numbers.items()}
    return name._replace(note=f'{name.note}; {MEAN}: {runs[0].note}'), norm, batch, joined


def theirs(task: str, cards: Sequence[Card], out: Path) -> Table:
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


def _wide(title: str, lines: Sequence[Line]) -> Table:
    metrics = dict.fromkeys(name for *_, numbers in lines for name in numbers)
    columns = sorted(metrics, key=lambda name: name == MEMORY)  # which comes last
    rows = [
        (name, Cell(norm), Cell(batch), *(Cell(numbers.get(m, '')) for m in columns))
        for name, norm, batch, numbers in sorted(lines, key=lambda line: line[1])
    ]
    return Table(title, ('model and protocol', 'norm', 'images a step', *columns), rows)


def of_readme(heading: str, path: Path = README) -> Iterator[Table]:
    """The tables below a heading of the README, with the paragraph before each."""
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    parts = re.split(r'^## (.+)\n', text, flags=re.M)
    section = dict(zip(parts[1::2], parts[2::2], strict=True)).get(heading, '')
    blocks = [block.strip() for block in section.split('\n\n')]
    for before, block in zip(['', *blocks], blocks, strict=False):
        if block.startswith('|'):
            head, _, *rows = (
                [_plain(c) for c in r.strip('|').split('|')] for r in block.splitlines()
            )
            yield Table(
                heading, tuple(head), [tuple(map(Cell, row)) for row in rows], _note(before)
            )


def _note(text: str) -> str:
    """A paragraph without its first sentence where that is of the table before."""
    return re.sub(r'^Made by .+?\. ', '', _plain(text))


def _plain(text: str) -> str:
    text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', text)
    return re.sub(r'[`*]|</?sup>', '', text.replace('\n', ' ')).strip()
