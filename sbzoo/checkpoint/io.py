"""Checkpoint I/O: atomic writes, safe reading that runs no code, strict or partial state dicts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_state_dict
from torch import Tensor, nn

from sbzoo.checkpoint import formats
from sbzoo.checkpoint.cards import card
from sbzoo.checkpoint.key_maps import Weights, below, own_keys, without_wrappers
from sbzoo.checkpoint.resolve import CARD, resolve
from sbzoo.errors import UserError
from sbzoo.files import write
from sbzoo.norm.key_names import with_own_names
from sbzoo.norm.supported import is_norm
from sbzoo.paths import command

SHOWN = 3  # keys of each kind, where a model and its weights do not fit
USUAL = 'state_dict', 'model'  # of mmengine and Lightning; of Detectron and timm
WEIGHT = 'a dense tensor'
FLOATS = torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64


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
        UserError: The file is not found, cannot be downloaded, is broken, would run code when
            read, or its weights are no dense tensors.
    """
    path = resolve(reference, sha256)
    checkpoint = _with_state_dict(path, formats.read(path))
    weights = checkpoint['state_dict']
    _warn_of_infinite(path, weights)
    scheme, _, name = str(reference).rpartition('://')
    if f'{scheme}://' == CARD:
        weights = own_keys(card(name), weights)
    if scheme == 'mmcls':  # a classifier, of which detectors take this
        weights = below('backbone.', weights)
    meta = checkpoint.get('meta') or {}
    meta = meta if isinstance(meta, dict) else dict(meta=meta)
    return {**checkpoint, 'meta': meta, 'state_dict': weights}


def _with_state_dict(path: Path, saved: Any) -> dict:
    """What was saved, with its weights under `state_dict` whatever their author called them."""
    if not isinstance(saved, dict) or not saved:
        raise UserError(f'{path}: not a checkpoint: it has no state_dict, but is {_kind(saved)}')
    name = _name_of_weights(path, saved)
    weights = saved[name] if name else saved
    for key, value in weights.items():
        if _kind(value) != WEIGHT or not isinstance(key, str):
            place = f'{name}[{key!r}]' if name else repr(key)
            raise UserError(f'{path}: {place} is {_kind(value)}, where weights are {WEIGHT}s')
    return {**(saved if name else {}), 'state_dict': weights}


def _name_of_weights(path: Path, saved: dict) -> str | None:
    """Under which name the weights are; None if they are all that was saved."""
    parts = [k for k, v in saved.items() if isinstance(v, dict) and v]
    named = [k for k in USUAL if k in parts] or [
        k for k in parts if all(map(torch.is_tensor, saved[k].values()))
    ]
    if not named and any(map(torch.is_tensor, saved.values())):
        return None
    if not named or (len(named) > 1 and named[0] not in USUAL):
        shown = ', '.join(f'{k} ({_kind(v)})' for k, v in list(saved.items())[:SHOWN])
        raise UserError(f'{path}: not a checkpoint: it has no state_dict of tensors, but {shown}')
    return named[0]


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if not torch.is_tensor(value):
        return f'a {type(value).__name__}'
    if value.is_meta or value.is_quantized or value.layout != torch.strided:
        state = 'meta' if value.is_meta else 'quantized' if value.is_quantized else 'sparse'
        return f'a {state} tensor'
    return WEIGHT


def _warn_of_infinite(path: Path, weights: Weights) -> None:
    counts = {key: count for key, value in weights.items() if (count := _infinite(value))}
    for key, count in list(counts.items())[:1]:
        more = f', and so have {len(counts) - 1} tensors more' if len(counts) > 1 else ''
        line = f'{path}: {key} has {count} values that are NaN or infinite{more}'
        print_log(line, logger='current', level=logging.WARNING)


def _infinite(value: Tensor) -> int:
    """How many values are NaN or infinite; almost always told from their sum."""
    if value.dtype not in FLOATS:
        return 0
    if value.nbytes > value.untyped_storage().nbytes():  # expanded
        value = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    return 0 if value.sum().isfinite() else int((~value.isfinite()).sum())


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
    own, weights = get_state_dict(model), named_as_in(model, weights)
    have, want = ({key: _shape(value) for key, value in state.items()} for state in (weights, own))
    if have != want and (strict or not have.items() & want.items()):
        what = 'of another model'
        if _differ_in_norms(have, want, model):
            what = f'of this model with another norm; {command("convert")} makes one of this norm'
        raise UserError(f'{source}: the checkpoint is {what}\n{_differences(have, want)}')
    return weights


def named_as_in(model: nn.Module, weights: Weights) -> Weights:
    """Weights under the keys of a model, be theirs those of wrappers or as published."""
    own = get_state_dict(model)
    return with_own_names(model, without_wrappers(_unwrapped(weights, own), own))


def _differ_in_norms(have: dict, want: dict, model: nn.Module) -> bool:
    """Whether what one has and the other has not is of normalization layers alone."""
    norms = {name for name, module in model.named_modules() if is_norm(module)}
    differing = {key for key, _ in have.items() ^ want.items()}
    return all(key.rpartition('.')[0] in norms for key in differing)


def _unwrapped(weights: Weights, own: Weights) -> Weights:
    """Without what wrappers put before every key: `module.`, `_orig_mod.`, Lightning's `model.`."""
    weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    prefixes = {key.partition('.')[0] for key in weights}
    if len(prefixes) != 1 or weights.keys() & own.keys():
        return weights
    return _unwrapped(below(f'{prefixes.pop()}.', weights), own)


def _shape(value: Any) -> str:
    """A complex tensor is none of a real one's shape: its imaginary part would be lost."""
    shape = str(list(getattr(value, 'shape', ())))
    return f'complex {shape}' if torch.is_tensor(value) and value.is_complex() else shape


def _differences(have: dict, want: dict) -> str:
    kinds = {
        'missing in the checkpoint': [k for k in want if k not in have],
        'unknown to the model': [k for k in have if k not in want],
        'of another shape': [
            f'{k} {have[k]} for {want[k]}' for k in want if have.get(k, want[k]) != want[k]
        ],
    }
    lines = (
        f'  {len(keys)} {kind}: {", ".join(keys[:SHOWN])}{" ..." if len(keys) > SHOWN else ""}'
        for kind, keys in kinds.items()
        if keys
    )
    return '\n'.join(lines)
