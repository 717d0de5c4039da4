"""Small-batch norms for MMDetection, and GANs: train, test, sample, measure, publish."""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module

from sbzoo.paths import command
from sbzoo.tools import cli

TOOLS = (
    *('train', 'test', 'predict', 'generate', 'export', 'convert'),
    *('data', 'fid', 'cards', 'publish', 'report', 'study', 'run'),
)
DEBUG = 'show tracebacks and warnings'


def main() -> None:
    """`sbzoo TOOL ...`: run the tool and exit."""
    parser = argparse.ArgumentParser('sbzoo', description=__doc__)
    tools = parser.add_subparsers(required=True, metavar='TOOL')
    for name in TOOLS:
        doc = import_module(f'sbzoo.tools.{name}').__doc__
        tools.add_parser(name, help=doc, add_help=False).set_defaults(tool=name)
    run(parser.parse_known_args(sys.argv[1:2])[0].tool, sys.argv[2:])


def run(name: str, argv: list[str]) -> None:
    """Run a tool with its arguments and exit."""
    tool = import_module(f'sbzoo.tools.{name}')
    args = parser_of(name).parse_args(argv)
    stopped = getattr(tool, 'when_stopped', lambda _: 'stopped')
    cli.run(lambda: tool.main(args), args.debug, lambda: stopped(args))


def parser_of(name: str) -> argparse.ArgumentParser:
    """The arguments that a tool takes, and its help."""
    tool = import_module(f'sbzoo.tools.{name}')
    parser = argparse.ArgumentParser(
        prog=command(name),
        description=tool.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_as_started(tool.EXAMPLES),
    )
    tool.add_arguments(parser)
    parser.add_argument('--debug', action='store_true', help=DEBUG)
    return parser


def _as_started(examples: str) -> str:
    """Examples are written for a clone; elsewhere tools and configs have other names."""
    if command('train').startswith('python'):
        return examples
    examples = re.sub(r'python tools/(\w+)\.py', r'sbzoo \1', examples)
    return re.sub(r'\bconfigs/(?=\S+\.py)', 'sbzoo::', examples)


if __name__ == '__main__':
    main()
