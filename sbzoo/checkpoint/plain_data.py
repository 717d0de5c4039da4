"""What may be pickled beside tensors, and the constructors that make plain data of it.

torch's restricted unpickler (`weights_only`) calls these and its own, and nothing else. What a
forged state would make dangerous, as a dtype of NumPy that reads any address, is represented while
the unpickler runs; `restored` makes the values afterwards.
"""

from __future__ import annotations

import datetime
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

NUMBERS_AND_TEXT = 'biufcSU'  # kinds of NumPy's dtypes


class _Represented:
    """Keeps the state that a pickle gives it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Represented):
    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.code = code

    def restored(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if dtype.kind not in NUMBERS_AND_TEXT:
            raise UnpicklingError(f'GLOBAL numpy.dtype({self.code})')
        swapped = self.state and self.state[1] in ('<', '>')
        return dtype.newbyteorder(self.state[1]) if swapped else dtype

    def values(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self.restored()).copy()


class _Array(_Represented):
    def restored(self) -> np.ndarray:
        _, shape, dtype, is_fortran, data = self.state
        if isinstance(data, list):  # of objects
            values = np.empty(len(data), object)
            values[:] = restored(data)
        else:
            values = dtype.values(data)
        return values.reshape(shape, order='F' if is_fortran else 'C')


class _Log(_Represented):
    def restored(self) -> HistoryBuffer:
        log = HistoryBuffer(max_length=int(self.state['max_length']))
        log._log_history, log._count_history = (
            self.state[name].restored() for name in ('_log_history', '_count_history')
        )
        return log


class _Config(_Represented):
    def restored(self) -> dict:
        return restored(self.state[0])


def _array(kind: type, shape: tuple, code: bytes) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> np.generic:
    (value,) = dtype.values(data)
    return value


def _empty_dict(default: Callable | None = None) -> dict:
    return {}


def _no_bytes() -> bytes:
    """Some bytes are pickled as text; only none of them as a call."""
    return b''


def _method(owner: type, name: str) -> None:
    """Stands for `getattr`: a log names its methods, which its class has anyway."""


def _named(names: str, stands_for: Callable) -> dict[str, Callable]:
    return dict.fromkeys(names.split(), stands_for)


_DICTS = """
    addict.addict.Dict mmcv.utils.config.ConfigDict mmengine.config.config.ConfigDict
    lightning.fabric.utilities.data.AttributeDict lightning_fabric.utilities.data.AttributeDict
    pytorch_lightning.utilities.parsing.AttributeDict
"""
# By the names of NumPy 1 and 2, and of Python's pathlib before and since 3.13
PLAIN: dict[str, Callable] = {
    **{f'builtins.{kind.__name__}': kind for kind in (bool, dict, float, int, list, str, tuple)},
    **{f'builtins.{kind.__name__}': kind for kind in (frozenset, slice)},
    'builtins.bytes': _no_bytes,
    'builtins.getattr': _method,
    'collections.defaultdict': _empty_dict,
    'argparse.Namespace': Namespace,
    **{
        f'{module}.{name}': path
        for module in ('pathlib', 'pathlib._local')
        for path in (PurePosixPath, PureWindowsPath)
        for name in (path.__name__, path.__name__.removeprefix('Pure'))
    },
    **{
        f'datetime.{kind.__name__}': kind
        for kind in (
            datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone
        )
    },
    'torch.torch_version.TorchVersion': str,
    **_named(_DICTS, OrderedDict),
    **_named('mmengine.config.config.Config mmcv.utils.config.Config', _Config),
    'mmengine.logging.history_buffer.HistoryBuffer': _Log,
    'numpy.dtype': _Dtype,
    'numpy.ndarray': _Array,
    **_named('numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct', _array),
    **_named('numpy.core.multiarray.scalar numpy._core.multiarray.scalar', _scalar),
}  # fmt: skip
SAFE_GLOBALS = [(constructor, name) for name, constructor in PLAIN.items()]


def restored(value: Any, done: dict[int, tuple] | None = None) -> Any:
    """What was read, with the values of all that is represented; containers are changed in place.

    Args:
        value: What the unpickler returned.
        done: By its id, what is restored already and to what, as containers may share their parts.
    """
    done = {} if done is None else done
    if id(value) not in done:
        done[id(value)] = value, value
        done[id(value)] = value, _restored(value, lambda part: restored(part, done))
    return done[id(value)][1]


def _restored(value: Any, inner: Callable[[Any], Any]) -> Any:
    if isinstance(value, _Represented):
        return value.restored()
    if type(value) is tuple:
        return tuple(map(inner, value))
    if isinstance(value, list):
        value[:] = map(inner, value)
    elif isinstance(value, dict):
        for key in value:
            value[key] = inner(value[key])
        if isinstance(value, OrderedDict):
            _drop_attributes(value)
    elif isinstance(value, Namespace):
        inner(vars(value))
    return value


def _drop_attributes(value: OrderedDict) -> None:
    """All but torch's, as a pickle may call one `items`."""
    metadata = vars(value).get('_metadata')
    vars(value).clear()
    if isinstance(metadata, dict):
        value._metadata = metadata
