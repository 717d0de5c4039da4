"""List the model cards, ours and published ones, or show one."""

import argparse

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from sbzoo.tools import cli

EXAMPLES = """
examples:
  python tools/cards.py                                # all
  python tools/cards.py --norm gn --batch 2            # group norm with any number of groups
  python tools/cards.py --task image-to-image
  python tools/cards.py retinanet_r50_fpn_1x_coco      # one, with its protocol and weights

In Python: sbzoo.list_cards(norm='gn'), sbzoo.card(NAME), sbzoo.load(NAME).
In a config of any OpenMMLab library: load_from = 'card://NAME'.
"""
FILTERS = ('task', 'norm', 'batch', 'data')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    add = parser.add_argument
    add('name', nargs='?', help='of a card')
    add('--task', help='object-detection, image-to-image, ...')
    add('--norm', metavar='SPEC', help='bn, gn, gn8, in, ...')
    add('--batch', type=cli.positive_int, metavar='N', help='batch size per device')
    add('--data', help='coco, digits, ...')


def main(args: argparse.Namespace) -> None:
    from sbzoo.checkpoint.cards import card, list_cards
    from sbzoo.errors import UserError

    if args.name:
        found = card(args.name)
        print((found.folder / 'README.md').read_text(encoding='utf-8').split('---\n', 2)[2])
        return
    given = {name: value for name in FILTERS if (value := getattr(args, name)) is not None}
    cards = list_cards(**given)
    if not cards:
        asked = ' '.join(f'--{name} {value}' for name, value in given.items())
        known = {name: {getattr(c, name) for c in list_cards()} - {None, ''} for name in given}
        there = '; '.join(f'{n}: {", ".join(sorted(map(str, v)))}' for n, v in known.items())
        raise UserError(f'{asked}: no card; there are {there}')
    for title, ours in (('trained here', True), ('published, not measured here', False)):
        if listed := [found for found in cards if found.is_ours == ours]:
            Console(highlight=False).print(table(title, listed))


def table(title: str, cards: list) -> Table:
    """A row for each card, with the protocol of its number below its name."""
    names = Column('card, protocol', overflow='fold')  # so that they can be copied
    result = Table(names, 'norm', 'batch', 'data', 'result', title=title, show_lines=True)
    for found in cards:
        first = found.headline
        number, protocol = (f'{first.metric} {first.value}', first.protocol) if first else ('', '')
        name = '\n'.join(text for text in (found.name, protocol) if text)
        batch = '' if found.batch is None else str(found.batch)
        result.add_row(*map(escape, (name, found.norm, batch, found.data, number)))
    return result
