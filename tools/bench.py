#!/usr/bin/env python
"""Make the numbers of the README again."""

import argparse
import sys
from importlib import import_module

from benchmarks import BENCHES

from sbzoo.tools import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    benches = parser.add_subparsers(required=True, metavar='BENCH')
    for name in BENCHES:
        bench = import_module(f'benchmarks.{name}')
        options = benches.add_parser(name, help=bench.__doc__, description=bench.__doc__)
        bench.add_arguments(options)
        options.set_defaults(run=bench.run)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.run(args)


if __name__ == '__main__':
    cli.run(main, debug='--debug' in sys.argv)
