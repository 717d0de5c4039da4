"""Checkpoints are data: written whole or not at all, read without running code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sbzoo.errors import UserError
from sbzoo.files import write
from sbzoo.norm.key_names import with_own_names


def _history_method(owner: type, name: str) -> Callable:
    """Stands for `getattr` in a checkpoint, which mmengine's log needs for its own methods."""
    if owner is not HistoryBuffer:
        raise UnpicklingError(f'Unsupported global: GLOBAL getattr of {owner}')
    return getattr(HistoryBuffer, name)


# What mmengine keeps in a checkpoint beside tensors: its log, as NumPy arrays.
SAFE_GLOBALS = [
    (_history_method, 'builtins.getattr'),
    HistoryBuffer,
    slice,
    np.ndarray,
    np.dtype,
    np._core.multiarray._reconstruct,
    np._core.multiarray.scalar,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    np.dtypes.UInt32DType,
]


# A checkpoint by reference, such as card://NAME. Addresses are fetched by the tools: mmengine would
# run code that is in what it finds there.
REFERENCE = re.compile(r'(?!https?:)[\w-]+://')


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """The local disk, where a file appears under its name only when it is complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically."""
        write(filepath, obj)


@CheckpointLoader.register_scheme(prefixes=r'.*\.safetensors$', force=True)
def load_from_safetensors(path: str, map_location: str | None = None) -> dict:
    """What `load_from` and `init_cfg` of any config do with such a file; it stays on the CPU."""
    return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint of tensors and plain values: `.safetensors`, or torch's own format.

    References go to what is registered with mmengine for their scheme.

    Raises:
        UserError: The file is missing, broken, or would run code when read.
    """
    if REFERENCE.match(str(path)):
        return CheckpointLoader.load_checkpoint(str(path), 'cpu')
    if not Path(path).is_file():
        raise UserError(f'{path}: no such checkpoint')
    if Path(path).suffix == '.safetensors':
        return _read_safetensors(path)
    checkpoint = _read_pickle(path)
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise UserError(f'{path}: not a checkpoint: it has no state_dict')
    if all(map(torch.is_tensor, checkpoint.values())):  # as timm and torchvision publish them
        checkpoint = dict(state_dict=checkpoint)
    if 'state_dict' not in checkpoint:
        raise UserError(f'{path}: not a checkpoint: it has no state_dict')
    return checkpoint


def _read_safetensors(path: str | Path) -> dict:
    try:
        with safe_open(path, framework='pt') as file:
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return dict(state_dict=state_dict, meta=file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f'{path}: the checkpoint is broken or cut short ({error})') from error


def _read_pickle(path: str | Path) -> object:
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location='cpu', weights_only=True)
    except UnpicklingError as error:
        name = re.search(r'GLOBAL (\S+)', str(error))
        reason = f'it asks for {name[1]}' if name else 'it is no pickle of tensors'
        raise UserError(f'{path}: not a checkpoint of plain data ({reason})') from error
    except OSError:
        raise
    except Exception as error:  # torch.load says in many ways that bytes make no sense
        reason = f'{type(error).__name__}: {error}'.splitlines()[0].split('. ')[0]
        raise UserError(f'{path}: the checkpoint is broken or cut short ({reason})') from error


def check_fits(path: str | Path, model: nn.Module) -> None:
    """Check that a checkpoint is whole and of this model: the same keys and shapes.

    Keys may have the names that OpenMMLab publishes; see `sbzoo.norm.key_names`.

    Raises:
        UserError: It is not; the message names the first keys that differ.
    """
    check_weights(path, read_checkpoint(path)['state_dict'], model)


def check_weights(name: str | Path, weights: dict[str, Tensor], model: nn.Module) -> None:
    """As `check_fits`, for weights that are read already; `name` is theirs in the message."""
    weights = with_own_names(model, weights)
    have = {k: tuple(v.shape) for k, v in weights.items()}
    want = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    if have != want:
        raise UserError(f'{name}: the checkpoint is of another model\n' + _differences(have, want))


def _differences(have: dict, want: dict) -> str:
    kinds = {
        'missing in the checkpoint': [k for k in want if k not in have],
        'unknown to the model': [k for k in have if k not in want],
        'of another shape': [
            f'{k} {list(have[k])} for {list(want[k])}'
            for k in want
            if have.get(k, want[k]) != want[k]
        ],
    }
    lines = (
        f'  {len(keys)} {kind}: {", ".join(keys[:3])}{" ..." if len(keys) > 3 else ""}'
        for kind, keys in kinds.items()
        if keys
    )
    return '\n'.join(lines)


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = {
        int(match[1]): path
        for path in Path(work_dir).glob('*.pth')
        if (match := re.fullmatch(r'(?:epoch|iter)_(\d+)', path.stem))
    }
    return found[max(found)] if found else None


def find_checkpoint(path: str | Path) -> str | Path:
    """A checkpoint, or the newest one of a folder; a reference as it is.

    Raises:
        UserError: The folder has none.
    """
    if REFERENCE.match(str(path)):
        return path  # as a path it would lose a slash
    found = latest_checkpoint(path) if Path(path).is_dir() else Path(path)
    if found is None:
        raise UserError(f'{path}: no checkpoint in this folder')
    return found
