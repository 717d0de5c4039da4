#!/usr/bin/env python
"""Measure again what is on record in model_cards/results/, and render its tables."""

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path

from benchmarks import BENCHES

from sbzoo.tools import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    benches = parser.add_subparsers(required=True, metavar='BENCH')
    for name, duration in BENCHES.items():
        source = Path(__file__).with_name('benchmarks').joinpath(f'{name}.py').read_text()
        says = ast.get_docstring(ast.parse(source)).splitlines()[0].rstrip('.')
        options = benches.add_parser(name, help=f'{says} ({duration})', description=says)
        if name in sys.argv:  # the others are not imported
            bench = import_module(f'benchmarks.{name}')
            bench.add_arguments(options)
            options.set_defaults(run=bench.run)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.run(args)


if __name__ == '__main__':
    cli.run(main, debug='--debug' in sys.argv)
