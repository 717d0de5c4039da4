"""Files and folders that appear under their name when they are complete, or not at all.

They have the permissions that any new file has, which those of `tempfile` have not. Until they are
complete they have a temporary name and are locked; a lock ends with its process, so what a killed
one has left is told from what is being written, and removed with the next write of the same name.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves there stays
    fcntl = None

CHUNK = 2**20  # bytes
DIGITS = 8  # that make a temporary name unique
FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at the end, on the disk."""
    with _temporary(Path(path), Path.touch) as scratch:
        with scratch.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)


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
    with _temporary(Path(path), Path.mkdir) as scratch:
        yield scratch
        scratch.rename(path)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let the error of a full disk name `path` where it names no file itself.

    Raises:
        OSError: The disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            error.filename = error.filename or str(path)
        raise


@contextmanager
def _temporary(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """What `make` makes beside `path`; it is gone at the end, if it has not been renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    with ExitStack() as held:
        scratch = _made(path, make, held)
        try:
            with naming(path):
                yield scratch
        finally:
            _remove(scratch)


def _made(path: Path, make: Callable[[Path], None], held: ExitStack) -> Path:
    """Make and lock it, and make it anew if another has taken it for abandoned in between."""
    while True:
        scratch = path.with_name(f'.{path.name}-{uuid4().hex[:DIGITS]}')
        make(scratch)
        with suppress(FileNotFoundError):
            held.enter_context(_locked(scratch))
            if scratch.exists():
                return scratch


def _remove_abandoned(path: Path) -> None:
    """Remove what processes have left that were killed while they wrote `path`."""
    names = f'.{glob.escape(path.name)}-{"[0-9a-f]" * DIGITS}'
    for found in path.parent.glob(names):
        with suppress(FileNotFoundError), _locked(found, wait=False) as is_abandoned:
            if is_abandoned:
                _remove(found)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file or folder; whether it is held, which some disks do not know of."""
    if fcntl is None:
        yield False
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield _acquire(handle, wait)
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # also that of child processes, forked meanwhile
        os.close(handle)


def _acquire(handle: int, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
