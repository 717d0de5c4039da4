"""Reads a file of torch or safetensors as data; whatever else a file may be is refused by name."""

from __future__ import annotations

import mmap
import pickletools
import re
import tarfile
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open

from sbzoo.checkpoint.plain_data import SAFE_GLOBALS, restored
from sbzoo.errors import UserError

HEAD = 1024  # bytes that show what a file is
ZIP, PICKLE = b'PK', b'\x80'
BEFORE_ZIP = b'l\xfc\x9cF\xf9 j\xa8P\x19'  # the magic number of torch before 1.6
OTHERS = {
    b'version https://git-lfs': 'a pointer of git-lfs; run git lfs pull',
    b'<': 'a web page, perhaps to log in',
    b'{': 'JSON, perhaps the index of a checkpoint in parts; give a file of weights',
}


def read(path: Path) -> Any:
    """What was saved, on the CPU; of safetensors a dict of `state_dict` and `meta`.

    Raises:
        UserError: It is broken or cut short, of another format, or would run code when read.
    """
    with path.open('rb') as file:
        head = file.read(HEAD)
    try:
        if path.suffix == '.safetensors' or _is_safetensors(head, path.stat().st_size):
            return _read_safetensors(path)
        return restored(_read_torch(path, head))
    except (UserError, OSError):
        raise
    except UnpicklingError as error:
        raise UserError(f'{path}: not a checkpoint of plain data ({_meaning(error)})') from error
    except Exception as error:  # libraries say in many ways that bytes make no sense
        reason = f'{type(error).__name__}: {error}'.splitlines()[0].split('. ')[0]
        raise UserError(f'{path}: the checkpoint is broken or cut short ({reason})') from error


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < size


def _read_safetensors(path: Path) -> dict:
    with safe_open(path, framework='pt') as file:
        state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return dict(state_dict=state_dict, meta=file.metadata() or {})


def _read_torch(path: Path, head: bytes) -> Any:
    _check_format(path, head)
    storages = []

    def on_cpu(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        storages.append(location)
        return storage

    with torch.serialization.safe_globals(SAFE_GLOBALS):
        saved = torch.load(path, map_location=on_cpu, weights_only=True)
    if not head.startswith(ZIP) and len(storages) != _num_storages(path):
        raise UserError(f'{path}: the checkpoint is broken: it lacks the data of a tensor')
    return saved


def _num_storages(path: Path) -> int:
    """How many a file of before torch 1.6 has at its end; torch leaves out others unnoticed."""
    with path.open('rb') as file:
        for _ in range(5):  # magic number, version, system, what was saved, names
            arguments = [argument for _, argument, _ in pickletools.genops(file)]
    return sum(isinstance(argument, str) for argument in arguments)


def _check_format(path: Path, head: bytes) -> None:
    """Whether it is a file of `torch.save`, as far as can be told without reading it."""
    if head.startswith(ZIP):
        _check_archive(path)
    elif BEFORE_ZIP not in head[:20] and head.startswith(PICKLE):
        raise UnpicklingError(
            'WeightsUnpickler error: it is a pickle of its own, not of torch.save'
        )
    elif BEFORE_ZIP not in head[:20]:
        raise UserError(f'{path}: not a checkpoint, but {_other_format(path, head)}')
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b'bytearray') >= 0:  # which torch lets a pickle ask for, of any size
            raise UnpicklingError('GLOBAL bytearray')


def _other_format(path: Path, head: bytes) -> str:
    if not head:
        return 'an empty file'
    for start, what in OTHERS.items():
        if head.lstrip().startswith(start):
            return what
    if tarfile.is_tarfile(path):
        return 'a tar archive, as torch before 0.1.10 wrote; save it again with that'
    return f'a file that torch.save has not written; it begins with {head[:8]!r}'


def _check_archive(path: Path) -> None:
    """A zip archive of torch, whose parts are as large as they claim and as they were saved."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        names = {part.filename.partition('/')[2] for part in parts}
        if 'constants.pkl' in names:
            raise UserError(
                f'{path}: a TorchScript archive, which is a program; save its state_dict()'
            )
        if 'data.pkl' not in names:
            raise UserError(f'{path}: a zip archive, but not of torch.save: it has no data.pkl')
        if any(part.compress_type for part in parts):
            raise UserError(f'{path}: compressed, as torch.save does not; unpack it and save again')
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise UserError(f'{path}: its parts claim more bytes than the file has')
        has_checksums = any(part.CRC for part in parts)  # torch can be told to write none
        if has_checksums and (damaged := archive.testzip()):
            raise UserError(f'{path}: damaged: {damaged} is not what was saved (CRC-32)')


def _meaning(error: UnpicklingError) -> str:
    """Torch's reason in a few words."""
    if name := re.search(r'GLOBAL (\S+)', str(error)):
        return (
            f'it asks for {name[1]}, which is not read without running code; '
            'where that is installed, save the state_dict() alone'
        )
    if re.search('Unsupported operand', str(error)):
        return 'it is no pickle of protocol 2, which is that of torch.save'
    if re.search('persistent_load', str(error)):
        return 'it holds more than tensors and plain values, as a whole module does'
    return str(error).rpartition('WeightsUnpickler error: ')[2].strip().splitlines()[0]
