"""Test a claim about small batches, on embedded data or on your own model and data."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sbzoo.paths import command
from sbzoo.tools import cli

if TYPE_CHECKING:
    from sbzoo.records import Measurement
    from sbzoo.studies.base import Study, Verdict
    from sbzoo.studies.subject import Subject

EXAMPLES = """
examples:
  python tools/study.py gradient-noise                     # on embedded data
  python tools/study.py statistics --card retinanet_bn_b2  # on a model: is batch norm in danger?
  python tools/study.py statistics configs/retinanet_bn_b2.py work_dirs/retinanet_bn_b2
  python tools/study.py statistics mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --data /my/coco
  python tools/study.py --all                              # 16 claims, 20 minutes on a core
  python tools/study.py --all --card retinanet_bn_b2       # all that take a model

Each seed is on record when it is there, in studies.jsonl of --out; a study that is run again takes
it from there. Without a checkpoint a config has the weights that training starts from.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    from sbzoo.studies import NAMES

    add = parser.add_argument
    add('study', nargs='?', metavar='STUDY', help=', '.join(NAMES))
    add('config', nargs='?', help='your model: a config, as of tools/test.py')
    add('checkpoint', nargs='?', help='its weights: a file, a work directory, card:// or https://')
    add('--card', metavar='NAME', help='a model card instead')
    add('--all', action='store_true', help='every study, or all that take a model')
    add('--seeds', nargs='+', type=cli.seed, metavar='SEED', help='default: those of the study')
    add('--out', type=Path, default=Path('work_dirs/studies'), metavar='DIR')
    cli.add_common_options(parser)


def main(args: argparse.Namespace) -> None:
    from sbzoo.errors import UserError
    from sbzoo.studies import NAMES

    if bool(args.study) == args.all:
        raise UserError(f'give the name of a study, or --all; there are {", ".join(NAMES)}')
    subject = _subject(args)
    said = {name: _run(name, subject, args) for name in _names(args.study, subject)}
    if args.all:
        _overview(said)
    print(f'next:    {command("report")}')


def _names(name: str | None, subject: Subject | None) -> Iterator[str]:
    """The study that is asked for; or all, or all that take a model where one is given.

    Raises:
        UserError: The study takes no model, and one is given.
    """
    from sbzoo.errors import UserError
    from sbzoo.studies import NAMES, study

    for each in [name] if name else NAMES:
        if not subject or study(each).advise:
            yield each
        elif name:
            raise UserError(f'{name}: it is on embedded data and small networks, without a model')


def _run(name: str, subject: Subject | None, args: argparse.Namespace) -> tuple[str, Verdict | str]:
    """Run a study, say and draw what has come out; its time, and its verdict or advice."""
    from rich.console import Console

    from sbzoo.report.studies import tables
    from sbzoo.report.tables import body
    from sbzoo.studies import study
    from sbzoo.studies.base import plot, values_of

    chosen, start = study(name), time.monotonic()
    lines = _measured(name, chosen, subject, args)
    values, shown, drawing = values_of(lines), tables(lines), args.out / f'study_{name}.png'
    plot(chosen, values, drawing)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f'\n{name}: {chosen.claim} ({chosen.source})\n', soft_wrap=True)
    for table in shown:
        console.print(f'{body(table)}\n', soft_wrap=True)
    said = chosen.advise(values, subject) if subject else chosen.judge(values)
    console.print(f'{shown[0].note}\n{said}\nplot:    {drawing}', soft_wrap=True)
    return str(timedelta(seconds=round(time.monotonic() - start))), said


def _overview(found: dict[str, tuple[str, Verdict | str]]) -> None:
    """A line for each study."""
    from rich.console import Console
    from rich.table import Table

    from sbzoo.studies.base import Verdict

    table = Table('study', 'time', 'verdict or advice')
    for name, (spent, said) in found.items():
        table.add_row(name, spent, said.word if isinstance(said, Verdict) else said)
    Console(markup=False).print(table)


def _measured(
    name: str, chosen: Study, subject: Subject | None, args: argparse.Namespace
) -> Sequence[Measurement]:
    """A line for each seed, from the record where it is there."""
    from rich.progress import track

    from sbzoo.records import measurement, read_measurements, record
    from sbzoo.report.studies import FILE
    from sbzoo.studies.base import figures

    path = args.out / FILE
    known = {(m.row['study'], m.row['model'], m.row['seed']): m for m in read_measurements(path)}
    found = []
    for seed in track(args.seeds or chosen.seeds, name, transient=True):
        row = dict(study=name, model=subject.name if subject else '', seed=seed)
        line = known.get(tuple(row.values()))
        if line is None:
            line = measurement(row, figures(chosen.values(seed, subject)), {}, ['mmdet'])
            record(path, [line])
        found.append(line)
    return found


def _subject(args: argparse.Namespace) -> Subject | None:
    """The model that the options name, if they name one."""
    from sbzoo.checkpoint.cards import card
    from sbzoo.checkpoint.resolve import CARD
    from sbzoo.engine.options.config import build_config
    from sbzoo.errors import UserError
    from sbzoo.studies.subject import open_subject

    if args.card and args.config:
        raise UserError(f'--card {args.card} or {args.config}, not both')
    if args.card:
        args.config, args.checkpoint = card(args.card).config, f'{CARD}{args.card}'
    if not args.config:
        if args.data:
            raise UserError(f'--data {args.data}: give the model too, by a config or --card NAME')
        return None
    cfg = build_config(args)
    return open_subject(cfg, args.checkpoint, args.card or Path(cfg.filename).stem)
