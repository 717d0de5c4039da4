"""Embedded data sets: built atomically on first use, with the same pixels on every machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from sbzoo.files import new_folder


def ensure_built(root: str | Path, build: Callable[[Path], str], digest: str | None = None) -> Path:
    """Build a set under `root` unless it is there already, and return `root`.

    This is atomic, also when two processes build the set at once: it is written to a temporary
    folder beside it, which is then renamed.

    Args:
        root: The folder of the set.
        build: Writes the set to an empty folder, and returns its sha256.
        digest: The sha256 that the published figures were measured on, if there are such; any other
            is warned of.
    """
    root = Path(root).expanduser()
    if not root.exists():
        built = _build(root, build)
        if digest and built not in (None, digest):
            warnings.warn(
                f'{root}: the installed scikit-learn, scikit-image or Pillow gives other images '
                f'(sha256 {built}) than the published figures were measured on ({digest})',
                stacklevel=3,
            )
    return root


def _build(root: Path, build: Callable[[Path], str]) -> str | None:
    """The sha256 of what was built; None if another process was first, with the same bytes."""
    try:
        with new_folder(root) as folder:
            return build(folder)
    except OSError:
        if not root.exists():
            raise
    return None
