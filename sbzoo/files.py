"""Files and folders that appear under their name when they are complete, or not at all.

They have the permissions that any new file has, which those of `tempfile` have not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at the end, on the disk."""
    path = Path(path)
    scratch = _beside(path)
    try:
        with scratch.open('xb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into, which gets the name `path` at the end.

    Raises:
        OSError: Something is there by then, an empty folder excepted.
    """
    path = Path(path)
    scratch = _beside(path)
    scratch.mkdir()
    try:
        yield scratch
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A name of nothing yet, on the same disk; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f'.{path.name}-{uuid4().hex[:8]}')
