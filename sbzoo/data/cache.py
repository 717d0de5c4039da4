"""Sets that are built on first use: complete or not there, the same pixels on every machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Where built and downloaded files are kept: $SBZOO_CACHE, or ~/.cache/sbzoo."""
    return Path(os.environ.get('SBZOO_CACHE', '~/.cache/sbzoo')).expanduser()


def ensure_built(root: str | Path, build: Callable[[Path], str], digest: str) -> Path:
    """Build a set under `root` unless it is there already, and return `root`.

    The set appears under its name only when it is complete, also when two processes build it
    at once: it is written to a temporary folder beside it, which is then renamed.

    Args:
        root: The folder of the set.
        build: Writes the set into the empty folder that it gets, and returns its sha256.
        digest: The sha256 that the published figures were measured on; another one is told in a
            warning.
    """
    root = Path(root)
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
        try:
            built = build(scratch)
            _publish(scratch, root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if built != digest:
            warnings.warn(
                f'{root}: the installed scikit-learn, scikit-image or Pillow gives other pictures '
                f'(sha256 {built}) than the published figures were measured on ({digest})',
                stacklevel=3,
            )
    return root


def _publish(scratch: Path, root: Path) -> None:
    try:
        scratch.rename(root)
    except OSError:
        if not root.exists():  # else another process was first, with the same bytes
            raise
