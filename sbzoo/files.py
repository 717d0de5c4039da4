"""Files and folders that appear under their name when they are complete, or not at all.

They have the permissions that any new file has, which those of `tempfile` have not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

CHUNK = 2**20  # bytes


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


def write(path: str | Path, data: bytes) -> None:
    """Write a file by `replacing`."""
    with replacing(path) as file:
        file.write(data)


def sha256(source: bytes | str | Path) -> str:
    """The sha256 of bytes, or of a file, in hexadecimal digits."""
    digest = hashlib.sha256(source if isinstance(source, bytes) else b'')
    if not isinstance(source, bytes):
        with Path(source).open('rb') as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


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
