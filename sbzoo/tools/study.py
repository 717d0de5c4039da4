"""Test a claim about small batches, on embedded data or on your own model and data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sbzoo.paths import command
from sbzoo.tools import cli

if TYPE_CHECKING:
    from sbzoo.records import Measurement
    from sbzoo.studies.base import Study
    from sbzoo.studies.subject import Subject

EXAMPLES = """
examples:
  python tools/study.py gradient-noise                     # on embedded data
  python tools/study.py statistics --card retinanet_bn_b2  # on a model: is batch norm in danger?
  python tools/study.py statistics configs/retinanet_bn_b2.py work_dirs/retinanet_bn_b2
  python tools/study.py statistics mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --data /my/coco
  python tools/study.py --all

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
    add('--all', action='store_true', help='every study, on embedded data')
    add('--seeds', nargs='+', type=cli.seed, metavar='SEED', help='default: those of the study')
    add('--out', type=Path, default=Path('work_dirs/studies'), metavar='DIR')
    cli.add_common_options(parser)


def main(args: argparse.Namespace) -> None:
    from sbzoo.errors import UserError
    from sbzoo.studies import NAMES

    if bool(args.study) == args.all:
        raise UserError(f'give the name of a study, or --all; there are {", ".join(NAMES)}')
    subject = _subject(args)
    for name in NAMES if args.all else [args.study]:
        _run(name, subject, args)
    print(f'next:    {command("report")}')


def _run(name: str, subject: Subject | None, args: argparse.Namespace) -> None:
    """Run a study, and say and draw what has come out."""
    from rich.console import Console

    from sbzoo.errors import UserError
    from sbzoo.report.studies import tables
    from sbzoo.report.tables import body
    from sbzoo.studies import study
    from sbzoo.studies.base import plot, values_of

    chosen = study(name)
    if subject and not chosen.advise:
        raise UserError(f'{name}: it is on embedded data and small networks, without a model')
    lines = _measured(name, chosen, subject, args)
    values, shown, drawing = values_of(lines), tables(lines), args.out / f'study_{name}.png'
    plot(chosen, values, drawing)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f'\n{name}: {chosen.claim} ({chosen.source})\n', soft_wrap=True)
    for table in shown:
        console.print(f'{body(table)}\n', soft_wrap=True)
    said = chosen.advise(values, subject) if subject else chosen.judge(values)
    console.print(f'{shown[0].note}\n{said}\nplot:    {drawing}', soft_wrap=True)


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
