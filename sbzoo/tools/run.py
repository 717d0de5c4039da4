"""Run a script of MMDetection, or any other, as the plugin needs it."""

import argparse
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

EXAMPLES = """
examples:
  python tools/run.py mmdet::tools/test.py CONFIG.py CHECKPOINT
  python tools/run.py mmdet::tools/train.py CONFIG.py --work-dir DIR
  python tools/run.py path/to/mmdetection/tools/train.py CONFIG.py

MMDetection's tools import mmcv's compiled operators before they read a config, and so before its
custom_imports. Started this way they find those of sbzoo where none are compiled, and read weights
files without running code.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The script and what it takes."""
    parser.add_argument('script', help='a file, or PACKAGE::tools/FILE.py that a package brings')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='what the script takes')


def main(args: argparse.Namespace) -> None:
    script = find(args.script)
    sys.argv = [str(script), *args.arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name='__main__')


def find(script: str) -> Path:
    """The file of a script; packages of OpenMMLab keep theirs in `.mim`.

    Raises:
        UserError: There is none.
    """
    from sbzoo.errors import UserError

    package, separator, path = script.rpartition('::')
    spec = find_spec(package) if separator else None
    found = Path(spec.origin).parent / '.mim' / path if spec else Path(script)
    if not found.is_file():
        raise UserError(f'{script}: no such script')
    return found
