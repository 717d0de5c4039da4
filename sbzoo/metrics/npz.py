"""Arrays of .npz files, read without running code; what is broken is said in one line."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from sbzoo.errors import UserError

BROKEN = (
    *(BadZipFile, zlib.error, EOFError, MemoryError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError),
)


def array_names(path: Path) -> list[str]:
    """The names of the arrays in a file.

    Raises:
        UserError: There is no such file, or it is no .npz file.
    """
    with _opened(path) as file:
        return file.files


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of these names, as far as the file has them.

    Raises:
        UserError: There is no such file, it is no .npz file, or an array cannot be read.
    """
    with _opened(path) as file:
        return {name: _read(path, file, name) for name in names if name in file.files}


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    try:
        file = np.load(path, allow_pickle=False)
    except BROKEN as error:
        raise UserError(f'{path}: not an .npz file of arrays, or a broken one') from error
    if not isinstance(file, NpzFile):
        raise UserError(f'{path}: a single array, not an .npz file of arrays by name')
    with file:
        yield file


def _read(path: Path, file: NpzFile, name: str) -> np.ndarray:
    try:
        return np.asarray(file[name])
    except BROKEN as error:
        why = str(error).partition('\n')[0]
        raise UserError(f'{path}: {name} cannot be read as an array of numbers ({why})') from error
