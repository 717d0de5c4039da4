"""Test a detector or a GAN: its AP or its distance from real images, and a picture."""

import argparse

from sbzoo.paths import command
from sbzoo.tools import cli

EXAMPLES = """
examples:
  python tools/test.py configs/retinanet_gn_b2.py work_dirs/retinanet_gn_b2
  python tools/test.py configs/retinanet_gn_b2.py --card retinanet_gn_b2
  python tools/test.py configs/dcgan_in_b2.py --card dcgan_in_b2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    cli.add_config(parser)
    weights = parser.add_mutually_exclusive_group(required=True)
    add = weights.add_argument
    add('checkpoint', nargs='?', help='a file, card://NAME, hf:// or https://, or a work directory')
    add('--card', metavar='NAME', help='the weights of a model card; `sbzoo cards` lists them')
    cli.add_launcher(parser)
    cli.add_common_options(parser)


def main(args: argparse.Namespace) -> None:
    from sbzoo.checkpoint.resolve import CARD
    from sbzoo.engine.options.config import build_config
    from sbzoo.engine.ranks import one_voice
    from sbzoo.engine.train import show, test

    with one_voice(args.launcher):
        cfg = build_config(args)
        if not args.work_dir:  # which the training has filled, and a test would write over
            cfg.work_dir = f'{cfg.work_dir}/test'
        runner, metrics = test(cfg, f'{CARD}{args.card}' if args.card else args.checkpoint)
        show(runner, metrics, command('train', '--help'))
