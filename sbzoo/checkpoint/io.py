"""Checkpoint I/O: atomic writes, safe reading that runs no code, strict or partial state dicts.

mmengine reads by this module too, so that `load_from` and `init_cfg` of any config do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import IO

import numpy as np
import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from safetensors import SafetensorError, safe_open
from torch import nn

from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.key_maps import Weights, below, own_keys
from sbzoo.checkpoint.resolve import CARD, HUB, TABLES, resolve
from sbzoo.errors import UserError
from sbzoo.files import write
from sbzoo.norm.key_names import with_own_names

SHOWN = 3  # keys of each kind, where a model and its weights do not fit


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """The local disk, where a file appears under its name only when it is complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically."""
        write(filepath, obj)


def load(reference: str | Path, sha256: str | None = None) -> dict:
    """A checkpoint of tensors and plain values, under the keys of the networks here.

    Args:
        reference: See `sbzoo.checkpoint.resolve.resolve`. It is in torch's format or safetensors.
        sha256: What the file has to have.

    Returns:
        `state_dict`, `meta`, and what else was saved; on the CPU.

    Raises:
        UserError: The file is not found, cannot be downloaded, is broken, or would run code when
            read.
    """
    path = resolve(reference, sha256)
    checkpoint = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    weights = checkpoint['state_dict']
    scheme, _, name = str(reference).rpartition('://')
    if f'{scheme}://' == CARD:
        weights = own_keys(card(name), weights)
    if scheme == 'mmcls':  # a classifier, of which detectors take this
        weights = below('backbone.', weights)
    return {'meta': {}, **checkpoint, 'state_dict': weights}


def _read_safetensors(path: Path) -> dict:
    try:
        with safe_open(path, framework='pt') as file:
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return dict(state_dict=state_dict, meta=file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f'{path}: the checkpoint is broken or cut short ({error})') from error


def _read_torch(file: Path | IO[bytes]) -> dict:
    checkpoint = _unpickle(file)
    if isinstance(checkpoint, dict) and checkpoint:
        if all(map(torch.is_tensor, checkpoint.values())):  # as timm and torchvision publish them
            return dict(state_dict=checkpoint)
        weights = checkpoint.get('state_dict', checkpoint.get('model'))
        if isinstance(weights, dict):
            return dict(checkpoint, state_dict=weights)
    raise UserError(f'{file}: not a checkpoint: it has no state_dict')


def _history_method(owner: type, name: str) -> Callable:
    """Stands for `getattr` in a checkpoint, which mmengine's log needs for its own methods."""
    if owner is not HistoryBuffer:
        raise UnpicklingError(f'Unsupported global: GLOBAL getattr of {owner}')
    return getattr(HistoryBuffer, name)


# What mmengine keeps in a checkpoint beside tensors: its log and best scores, as NumPy's.
_NUMPY = np._core.multiarray._reconstruct, np._core.multiarray.scalar
_KINDS = 'Bool', 'Int32', 'Int64', 'UInt32', 'Float32', 'Float64'
SAFE_GLOBALS = [
    (_history_method, 'builtins.getattr'),
    HistoryBuffer,
    slice,
    np.ndarray,
    np.dtype,
    *_NUMPY,
    *((function, f'numpy.core.multiarray.{function.__name__}') for function in _NUMPY),  # NumPy 1
    *(getattr(np.dtypes, f'{kind}DType') for kind in _KINDS),
]


def _unpickle(file: Path | IO[bytes]) -> object:
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(file, map_location='cpu', weights_only=True)
    except UnpicklingError as error:
        name = re.search(r'GLOBAL (\S+)', str(error))
        reason = f'it asks for {name[1]}' if name else 'it is no pickle of tensors'
        raise UserError(f'{file}: not a checkpoint of plain data ({reason})') from error
    except OSError:
        raise
    except Exception as error:  # torch.load says in many ways that bytes make no sense
        reason = f'{type(error).__name__}: {error}'.splitlines()[0].split('. ')[0]
        raise UserError(f'{file}: the checkpoint is broken or cut short ({reason})') from error


@CheckpointLoader.register_scheme(
    ['', 'http://', 'https://', CARD, HUB, *(f'{scheme}://' for scheme in TABLES)], force=True
)
def load_from_reference(reference: str, map_location: str | None = None) -> dict:
    """What mmengine loads; it stays on the CPU."""
    return load(reference)


# pavi:// and s3:// are still downloaded by mmengine, which would fall back on unsafe unpickling.
mmengine_checkpoint._safe_torch_load = lambda file, map_location=None, **_: _read_torch(file)


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class Pretrained(PretrainedInit):
    """mmengine's `init_cfg=dict(type='Pretrained', ...)`, for which a wrong file is an error.

    Raises:
        UserError: Nothing in the file fits the module.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load what fits."""
        weights = CheckpointLoader.load_checkpoint(self.checkpoint, 'cpu')['state_dict']
        if self.prefix:
            weights = below(f'{self.prefix.rstrip(".")}.', weights)
        check_fit(self.checkpoint, weights, module, strict=False)
        print_log(f'load {self.prefix or "model"} from: {self.checkpoint}', logger='current')
        _load_checkpoint_to_model(module, dict(state_dict=weights), logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def check_fit(
    source: str | Path, weights: Weights, model: nn.Module, strict: bool = True
) -> Weights:
    """Check that weights are those of a model: the same keys and shapes.

    Args:
        source: Where they come from, for the message.
        weights: Keys may have the names that OpenMMLab publishes; see `sbzoo.norm.key_names`.
        model: What they are to be loaded into.
        strict: Whether all have to fit, or any.

    Returns:
        The weights under the keys of the model.

    Raises:
        UserError: They do not fit; the message names the first keys that differ.
    """
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    weights = with_own_names(model, weights)  # `module.` is of a wrapper for parallel training
    have, want = (
        {key: tuple(getattr(value, 'shape', ())) for key, value in state.items()}
        for state in (weights, model.state_dict())
    )
    if have != want and (strict or not have.items() & want.items()):
        differences = _differences(have, want)
        raise UserError(f'{source}: the checkpoint is of another model\n{differences}')
    return weights


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
        f'  {len(keys)} {kind}: {", ".join(keys[:SHOWN])}{" ..." if len(keys) > SHOWN else ""}'
        for kind, keys in kinds.items()
        if keys
    )
    return '\n'.join(lines)
