"""Gather model cards, result files and work directories into a page and tables, or check cards."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from sbzoo.paths import command

EXAMPLES = """
examples:
  python tools/report.py                              # cards and model_cards/results/*.jsonl
  python tools/report.py work_dirs/gan/*_s0           # and runs: curves, pictures, numbers
  python tools/report.py --check                      # evaluates the weights of our cards anew

report.html is one file that needs nothing else, no network either; report.md has its tables.
Numbers stand together where runs differ in norm, batch and seed alone; those of others stand beside
ours, each with its protocol.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    add = parser.add_argument
    add('work_dirs', nargs='*', type=Path, metavar='WORK_DIR', help='of finished runs')
    add(
        '--out',
        type=Path,
        default=Path('work_dirs/report'),
        metavar='DIR',
        help='default: work_dirs/report; links to cards are relative to it',
    )
    add('--check', action='store_true', help='compare the cards with an evaluation, and do no more')
    add(
        '--tolerance',
        type=float,
        default=0.001,
        metavar='X',
        help='of --check: absolute up to 1 (0.001 AP), relative above (0.1%% of a distance of 1 or '
        'more, such as FD); default 0.001',
    )


def main(args: argparse.Namespace) -> None:
    from sbzoo.report.page import gather, write

    if args.check:
        check_cards(args.tolerance)
        return
    material = gather(args.work_dirs)
    for folder in material.unfinished:
        print(f'left out: {folder} has no result.json, which tools/train.py writes at its end')
    page, text = write(material, args.out)
    print(f'{len(material.cards)} cards, {len(material.runs)} runs')
    print(f'page:    {page} ({page.stat().st_size / 1e6:.1f} MB)')
    print(f'tables:  {text}')
    print(f'next:    python -m webbrowser {page.resolve().as_uri()}')


def check_cards(tolerance: float) -> None:
    from sbzoo.checkpoint.cards import list_cards
    from sbzoo.errors import UserError
    from sbzoo.report.check import check, checkable

    cards = checkable(list_cards())
    checks = [found for card in track(cards, 'cards') for found in check(card)]
    table = Table('card', 'metric', 'stated', 'found', 'difference', '')
    for found in checks:
        difference = f'{found.found - found.stated:+.2g}'
        verdict = 'agrees' if found.holds(tolerance) else 'DIFFERS'
        numbers = f'{found.stated:g}', f'{found.found:.6g}', difference
        table.add_row(found.card, found.metric, *numbers, verdict)
    Console(highlight=False).print(table)
    wrong = sum(not found.holds(tolerance) for found in checks)
    if wrong:
        raise UserError(f'{wrong} of {len(checks)} numbers differ by more than {tolerance:g}')
    print(f'next:    {command("report")}')
