#!/usr/bin/env python
"""Test a detector or a GAN: its AP or its distance from real images, and a picture."""

import argparse

from sbzoo.engine import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n'
        '  python tools/test.py configs/retinanet_gn_b2.py work_dirs/retinanet_gn_b2\n',
    )
    cli.add_config(parser)
    parser.add_argument('checkpoint', help='a checkpoint, or a work directory for its newest')
    cli.add_common_options(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from sbzoo.engine.recipe import build_config
    from sbzoo.engine.training import show, test

    runner, metrics = test(build_config(args), args.checkpoint)
    show(runner, metrics, 'python tools/train.py --help')


if __name__ == '__main__':
    arguments = parse_args()
    cli.run(lambda: main(arguments), arguments.debug)
