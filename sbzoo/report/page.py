"""The report: its sections, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sbzoo import files
from sbzoo.checkpoint.cards import TASKS, Card, list_cards
from sbzoo.engine.result import FILE as RESULT
from sbzoo.engine.visualize import Curve
from sbzoo.paths import CARDS
from sbzoo.records import Measurement
from sbzoo.report import gpu, plots, studies, tables
from sbzoo.report.gather import (
    ASIDE,
    Experiment,
    Experiments,
    TrainingRun,
    curves_of,
    experiments,
    read_results,
    read_work_dir,
)
from sbzoo.report.measurements import COSTS, holds_measurements, read_all
from sbzoo.report.plots import Picture, embed
from sbzoo.report.tables import ResultTable
from sbzoo.zoo.page import picture_of

TEMPLATE = 'page.html.jinja'
RESULTS = CARDS / 'results'
PLOTTED = ('box AP', 'mask AP', *tables.LOWER)  # the first words of metrics


class Block(NamedTuple):
    """What is shown together."""

    title: str
    tables: Sequence[ResultTable] = ()
    plots: Sequence[tuple[str, Markup]] = ()  # caption and drawing
    pictures: Sequence[Picture] = ()


class Section(NamedTuple):
    """A chapter of the report; one without blocks says that there is nothing."""

    key: str
    title: str
    intro: str
    blocks: list[Block]


class Material(NamedTuple):
    """What a report is made of."""

    cards: list[Card]
    runs: list[TrainingRun]
    unfinished: list[Path]  # work directories without a result
    measured: dict[str, list[Measurement]]  # by benchmark


def gather(work_dirs: Sequence[Path], results: Path = RESULTS) -> Material:
    """Read all model cards, the runs and measurements on record, and some work directories.

    Raises:
        UserError: One of them is broken.
    """
    measured = read_all(results)
    files = (path for path in sorted(results.glob('*.jsonl')) if not holds_measurements(path))
    runs = [run for path in files for run in read_results(path)]
    finished = [folder for folder in work_dirs if (folder / RESULT).is_file()]
    runs += [read_work_dir(folder) for folder in finished]
    unfinished = [folder for folder in work_dirs if folder not in finished]
    return Material(list_cards(), runs, unfinished, measured)


def write(material: Material, out: Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` to a folder.

    Raises:
        UserError: Runs of one norm and batch differ in more than their seed, or a log or picture
                is broken.
    """
    chapters = sections(material, out)
    page, text = out / 'report.html', out / 'report.md'
    files.write(page, html(chapters).encode())
    files.write(text, markdown(chapters).encode())
    return page, text


def html(chapters: Sequence[Section]) -> str:
    """One page that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(sections=chapters, alpha=plots.alpha)


def markdown(chapters: Sequence[Section]) -> str:
    """The tables alone."""
    parts = ['# sbzoo: results']
    for section in chapters:
        listed = [tables.markdown(table) for block in section.blocks for table in block.tables]
        heads = [text for text in (f'## {section.title}', section.intro) if text]
        parts += [*heads, *listed] if listed else []
    return '\n\n'.join(parts) + '\n'


def sections(material: Material, out: Path) -> list[Section]:
    """All that is known, for a page in the folder `out`."""
    found = experiments(material.runs)
    made = [_results(task, title, found) for task, title in TASKS.items()]
    listed = [section for section in made if section.blocks]
    return [
        *listed,
        _alphas(found),
        _curves(found),
        _pictures(material),
        _published(material.cards, found, out),
        _studies(material.measured['studies']),
        _costs(material.measured),
    ]


def _results(task: str, title: str, found: Experiments) -> Section:
    blocks = [
        _experiment(source, model, protocol, experiment)
        for (source, its_task, model, protocol), experiment in found.items()
        if its_task == task
    ]
    return Section(task, _capital(title), '', blocks)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _experiment(source: str, model: str, protocol: str, experiment: Experiment) -> Block:
    table = tables.by_norm_and_batch(f'{model} ({source})', protocol, experiment)
    drawn = [
        _dots(metric, batch, experiment)
        for metric in tables.metrics_of(experiment)
        if metric.startswith(PLOTTED)
        for batch in tables.batches_of(experiment)
    ]
    return Block(table.title, [table], drawn)


def _dots(metric: str, batch: int, experiment: Experiment) -> tuple[str, Markup]:
    rows = {
        label: numbers
        for (label, its_batch), runs in experiment.items()
        if its_batch == batch and (numbers := tables.values(runs, metric))
    }
    better = ' (lower is better)' if metric.startswith(tables.LOWER) else ''
    texts = [tables.mean_std(numbers, tables.decimals_of(metric)) for numbers in rows.values()]
    return tables.column(metric, batch) + better, plots.dots(rows, texts)


def _alphas(found: Experiments) -> Section:
    made = [
        tables.alphas(f'{model} ({source})', experiment)
        for (source, _, model, _), experiment in found.items()
    ]
    blocks = [Block(table.title, [table]) for table in made if table]
    intro = 'Hybrids start at 0.5; means over the seeds.'
    return Section('alphas', 'Learned alphas by layer', intro, blocks)


def _curves(found: Experiments) -> Section:
    blocks = []
    for (_, _, model, protocol), experiment in found.items():
        logs = {
            f'{label}, batch {run.batch}, seed {run.seed}': curves_of(run.folder)
            for (label, _), runs in experiment.items()
            for run in runs
            if run.folder
        }
        drawn = {
            name: {k: log[name] for k, log in logs.items() if log.get(name)}
            for name in _names(logs)
        }
        panels = [
            (name, plots.curves(f'curve-{len(blocks)}-{i}', lines))
            for i, (name, lines) in enumerate(drawn.items())
        ]
        if panels:
            blocks.append(Block(f'{model}: {protocol}', plots=panels))
    intro = 'By step or epoch; each run in front of the others of its table.'
    return Section('curves', 'Training curves', intro, blocks)


def _names(logs: dict[str, dict[str, Curve]]) -> list[str]:
    """The losses and the metrics that are worth a drawing: those of more than one step."""
    names = dict.fromkeys(name for log in logs.values() for name in log if len(log[name]) > 1)
    losses = ['loss'] if 'loss' in names else [name for name in names if name.startswith('loss_')]
    distances = [n for n in names if n.startswith(tables.LOWER) and not n.endswith(ASIDE)]
    return losses + [n for n in names if n == 'coco/bbox_mAP'] + distances


def _pictures(material: Material) -> Section:
    files = [(card.name, card.folder / picture_of(card.task)) for card in material.cards]
    files += [
        (
            f'{run.model}, {run.label}, batch {run.batch}, seed {run.seed}',
            run.folder / picture_of(run.task),
        )
        for run in material.runs
        if run.folder
    ]
    shown = embed([(caption, path) for caption, path in files if path.is_file()])
    intro = 'Detections: left ground truth, right what was found. Samples: the first seeds.'
    return Section(
        'pictures', 'Detections and samples', intro, [Block('', pictures=shown)] if shown else []
    )


def _published(cards: list[Card], found: Experiments, out: Path) -> Section:
    blocks = []
    for task, title in TASKS.items():
        pair = [tables.ours(task, cards, found, out), tables.theirs(task, cards, out)]
        pair = [table for table in pair if table.rows]
        if pair:
            blocks.append(Block(_capital(title), pair))
    intro = (
        'Not one ranking: data, networks and protocols differ. What was published was not measured '
        'here.'
    )
    return Section('published', 'Beside published checkpoints', intro, blocks)


def _studies(measured: list[Measurement]) -> Section:
    blocks = [Block('Verdicts', [studies.verdicts(measured)])] if measured else []
    blocks += [Block(name, studies.tables(m)) for name, m in studies.by_study(measured).items()]
    return Section('studies', 'Claims about small batches', 'By tools/study.py.', blocks)


def _costs(measured: dict[str, list[Measurement]]) -> Section:
    made = {title: tables_of(measured) for title, tables_of in COSTS.items()}
    made['On a GPU'] = gpu.tables(measured['gpu'])
    blocks = [Block(title, listed) for title, listed in made.items() if listed]
    return Section('costs', 'Memory and speed', 'Measured by tools/bench.py.', blocks)
