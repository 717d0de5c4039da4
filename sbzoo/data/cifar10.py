"""CIFAR-10 (Krizhevsky 2009) from its published files, without running code in pickles."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision.datasets import CIFAR10

from sbzoo.errors import UserError

CLASSES = (
    'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip
_BATCH = 10_000  # images in a file
_PIXELS = 3 * 32 * 32
_URL = 'https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz'
# The extracted binary version has no published hashes: only the length of its files is checked.
MD5 = {
    'cifar-10-python.tar.gz': CIFAR10.tgz_md5,
    'cifar-10-binary.tar.gz': 'c32a1d4ab5d03f1284b67883e8d87530',
    **dict(CIFAR10.train_list + CIFAR10.test_list),
}

_Batch = tuple[np.ndarray, np.ndarray]  # uint8 [N, 3072], channel by channel, and labels [N]


def read_cifar10(
    root: str | Path, split: str = 'train', md5: Mapping[str, str] = MD5
) -> tuple[np.ndarray, np.ndarray]:
    """Read one split: images in RGB, uint8 [N, 32, 32, 3], and labels [N] from 0 to 9.

    Args:
        root: The folder that holds cifar-10-python.tar.gz, cifar-10-binary.tar.gz, or what they
            extract to.
        split: `train` (50,000 images) or `test` (10,000).
        md5: Expected checksums by file name; other files are not checked.

    Raises:
        UserError: A file is missing or corrupted.
    """
    version, path = _locate(Path(root))
    if split not in version.names:
        raise UserError(f'CIFAR-10 has no split {split!r}; it has {", ".join(version.names)}')
    read = _from_folder if path.is_dir() else _from_archive
    files = read(path, [f'{version.folder}/{name}' for name in version.names[split]], md5)
    batches = [version.parse(name, content) for name, content in files.items()]
    pixels, labels = map(np.concatenate, zip(*batches, strict=True))
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


class _ArraysOnly(pickle.Unpickler):
    """Unpickles containers, numbers, strings and NumPy arrays, and calls nothing else."""

    _ALLOWED: ClassVar = {
        ('numpy.core.multiarray', '_reconstruct'): np.empty(0).__reduce__()[0],
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy', 'dtype'): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        return self._ALLOWED[module, name]


def _parse_python(name: str, content: bytes) -> _Batch:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding='bytes').load()
        pixels, labels = np.asarray(batch[b'data']), np.asarray(batch[b'labels'])
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f'{name}: not a batch of CIFAR-10: {error}') from error
    return _checked(name, pixels, labels)


def _parse_binary(name: str, content: bytes) -> _Batch:
    values = np.frombuffer(content, np.uint8)
    rows = values.reshape(-1, _PIXELS + 1) if len(values) % (_PIXELS + 1) == 0 else values[None]
    return _checked(name, rows[:, 1:], rows[:, 0])


def _checked(name: str, pixels: np.ndarray, labels: np.ndarray) -> _Batch:
    valid = pixels.shape == (_BATCH, _PIXELS) and labels.shape == (_BATCH,)
    if not valid or pixels.dtype != np.uint8 or not np.isin(labels, range(len(CLASSES))).all():
        raise UserError(f'{name}: not {_BATCH:,} images of 32 x 32 with labels of 0 to 9')
    return pixels, labels.astype(np.int64)


@dataclass(frozen=True)
class _Version:
    archive: str
    folder: str
    names: dict[str, tuple[str, ...]]
    parse: Callable[[str, bytes], _Batch]


_NAMES = dict(train=tuple(f'data_batch_{i}' for i in range(1, 6)), test=('test_batch',))
_BINARY_NAMES = {split: tuple(f'{name}.bin' for name in _NAMES[split]) for split in _NAMES}
_VERSIONS = (
    _Version('cifar-10-python.tar.gz', 'cifar-10-batches-py', _NAMES, _parse_python),
    _Version('cifar-10-binary.tar.gz', 'cifar-10-batches-bin', _BINARY_NAMES, _parse_binary),
)


def _locate(root: Path) -> tuple[_Version, Path]:
    """The first version that is in a folder, or that the path itself is."""
    for version in _VERSIONS:
        for path in (root, root / version.folder, root / version.archive):
            if path.name in (version.folder, version.archive) and path.exists():
                return version, path
    wanted = ', '.join(name for v in _VERSIONS for name in (v.folder, v.archive))
    raise UserError(f'{root}: no CIFAR-10; looked for {wanted}; download it from {_URL}')


def _from_folder(folder: Path, names: list[str], md5: Mapping[str, str]) -> dict[str, bytes]:
    return {name: _verified(folder.parent / name, md5) for name in names}


def _from_archive(path: Path, names: list[str], md5: Mapping[str, str]) -> dict[str, bytes]:
    content = _verified(path, md5)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode='r:gz') as archive:
            # in the order of the archive: going back would unpack it again from its beginning
            found = {m.name: archive.extractfile(m).read() for m in archive if m.name in names}
            return {name: found[name] for name in names}
    except KeyError as error:
        raise UserError(f'{path}: no {error.args[0]} in it') from error
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f'{path}: truncated or altered: {error}') from error


def _verified(path: Path, md5: Mapping[str, str]) -> bytes:
    if not path.is_file():
        raise UserError(f'{path}: no such file')
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    wanted = md5.get(path.name, found)
    if found != wanted:
        raise UserError(f'{path}: truncated or altered: its md5 is {found}, published is {wanted}')
    return content
