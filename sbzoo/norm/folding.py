"""Models that fold their norms into convolutions leave those that cannot be folded."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from sbzoo.norm.layers import Norm
from sbzoo.norm.spec import say_once

METHODS = 'fuse', 'reparameterize', 'switch_to_deploy'  # of ultralytics, timm and RepVGG
VARIADIC = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def keep_unfolded(model: nn.Module) -> None:
    """Make what folds the norms of a model leave them, where one of them cannot be folded."""
    for module in model.modules():
        for name in METHODS:
            if getattr(vars(module).get(name), 'func', None) is _left_unfolded:
                delattr(module, name)  # of other norms, before
            if _folds(getattr(module, name, None)) and not all(
                map(_can_be_folded, module.modules())
            ):
                setattr(module, name, partial(_left_unfolded, module))


def _folds(method: Any) -> bool:
    """Whether it is called without an argument: what fuses features is given some."""
    if not inspect.ismethod(method):
        return False
    parameters = inspect.signature(method).parameters.values()
    return not any(p.default is p.empty and p.kind not in VARIADIC for p in parameters)


def _can_be_folded(module: nn.Module) -> bool:
    return not isinstance(module, Norm) or module.folds


def _left_unfolded(module: nn.Module, *_: object, **__: object) -> nn.Module:
    say_once(f'{type(module).__name__}: its norms cannot all be folded, and stay layers')
    return module
