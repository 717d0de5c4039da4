"""Where configs, model cards and the cache are, in a clone as in an installed wheel.

`sbzoo/.mim` is OpenMMLab's place for what belongs to a package and is no module: links to the
folders of the repository in a clone, the folders themselves in a wheel.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

CONFIGS = Path(__file__).parent.joinpath('.mim', 'configs').resolve()
ROOT = CONFIGS.parent  # of the repository, or what holds the same folders
CARDS = ROOT / 'model_cards'


def cache_dir() -> Path:
    """Where built and downloaded files are kept: $SBZOO_CACHE, or ~/.cache/sbzoo."""
    return Path(os.environ.get('SBZOO_CACHE', '~/.cache/sbzoo')).expanduser()


def command(tool: str, *arguments: str | Path) -> str:
    """What to type for another tool, in the way that this one was started, quoted for the shell."""
    this = Path(sys.argv[0])
    in_clone = this.parent.name == 'tools'
    start = ['python', this.with_name(f'{tool}.py')] if in_clone else ['sbzoo', tool]
    return shlex.join(map(_word, [*start, *arguments]))


def _word(argument: str | Path) -> str:
    """A path with a dash first would be taken for an option."""
    word = str(argument)
    return f'./{word}' if isinstance(argument, Path) and word.startswith('-') else word
