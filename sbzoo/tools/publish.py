"""Make a model card of finished runs: weights, results with their spread, a picture."""

import argparse
from pathlib import Path

from sbzoo.paths import command

EXAMPLES = """
examples:
  python tools/publish.py work_dirs/retinanet_gn_b2
  python tools/publish.py runs/gn_seed0 runs/gn_seed1 runs/gn_seed2 --half
  python tools/publish.py          # only the published checkpoints and the indices, anew

The runs are of one config and differ in their seed; the weights are those of the lowest. Everything
in model_cards/ is written by this command: change what it is made from, not what it writes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    add = parser.add_argument
    add('work_dirs', nargs='*', type=Path, metavar='WORK_DIR', help='of tools/train.py')
    add('--name', default='', help='of the card; that of the config by default')
    add('--replace', action='store_true', help='the card of ours that has this name')
    add('--half', action='store_true', help='weights in half precision, and the numbers of these')
    add(
        '--limit',
        action='append',
        default=[],
        metavar='SENTENCE',
        help='what the model does not do; may be given several times',
    )


def main(args: argparse.Namespace) -> None:
    from sbzoo.zoo.index import write
    from sbzoo.zoo.publish import publish

    options = args.name, args.half, args.limit, args.replace
    card = publish(args.work_dirs, *options) if args.work_dirs else None
    print(f'{len(write())} cards: model_cards/README.md')
    if card:
        size = Path(card.reference).stat().st_size
        print(f'card:    {card.folder} ({size / 1e6:.1f} MB of weights)')
        is_detector = card.task == 'object-detection'
        tool = ('test', card.config) if is_detector else ('generate',)
        print(f'next:    {command(*tool, "--card", card.name)}')
