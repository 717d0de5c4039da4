"""Replace the normalization layers of a trained checkpoint and calibrate the new ones."""

import argparse
from pathlib import Path

from sbzoo.norm import norm_table
from sbzoo.paths import command
from sbzoo.tools import cli

EXAMPLES = rf"""
norms (statistics are taken over ...):
{norm_table()}

example:
  python tools/convert.py configs/retinanet_bn_b2.py work_dirs/retinanet_bn_b2 \
      --norm gn8 --out gn8.pth
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    cli.add_config(parser)
    add = parser.add_argument
    add('checkpoint', help='a checkpoint of this config, or a work directory for its newest')
    add('--norm', dest='to', required=True, metavar='SPEC', help='the new norm (table below)')
    add(
        '--images',
        type=cli.positive_int,
        default=64,
        metavar='N',
        help='training images to calibrate on (64)',
    )
    add('--copy', action='store_true', help='copy weights and biases, without calibration')
    add('--out', required=True, metavar='FILE', help='the new checkpoint')
    cli.add_common_options(parser)


def main(args: argparse.Namespace) -> None:
    from sbzoo.engine.convert_checkpoint import convert
    from sbzoo.engine.options.config import build_config

    images = 0 if args.copy else args.images
    for record in convert(build_config(args), args.checkpoint, args.to, images, args.out):
        if record:
            print(record)
    print(f'written: {args.out}')
    options = '--norm', args.to, '--load-from', Path(args.out)
    print(f'next:    {command("train", args.config, *options)}')
