"""Where configs, model cards and the cache are, in a clone as in an installed wheel.

`sbzoo/.mim` is OpenMMLab's place for what belongs to a package and is no module: links to the
folders of the repository in a clone, the folders themselves in a wheel.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONFIGS = Path(__file__).parent.joinpath('.mim', 'configs').resolve()
ROOT = CONFIGS.parent  # of the repository, or what holds the same folders
CARDS = ROOT / 'model_cards'


def cache_dir() -> Path:
    """Where built and downloaded files are kept: $SBZOO_CACHE, or ~/.cache/sbzoo."""
    return Path(os.environ.get('SBZOO_CACHE', '~/.cache/sbzoo')).expanduser()


def command(tool: str) -> str:
    """How to start another tool, in the way that this one was started."""
    this = Path(sys.argv[0])
    if this.parent.name == 'tools':
        return f'python {this.with_name(tool)}.py'
    return f'sbzoo {tool}'
