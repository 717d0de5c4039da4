"""`--amp` and `--lean`: training in less memory."""

from __future__ import annotations

import torch
from mmengine.config import Config

from sbzoo.engine.options.parts import typed_dicts, wrappers_of
from sbzoo.errors import UserError


def set_amp(cfg: Config, _: bool) -> None:
    """Train in mixed precision.

    Raises:
        UserError: There is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError('--amp: mixed precision needs a GPU, and torch sees none')
    for wrapper in wrappers_of(cfg.optim_wrapper):
        wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')


def set_lean(cfg: Config, _: bool = True) -> None:
    """Train in less memory: a hook, and the focal loss that keeps its slope alone."""
    for part in typed_dicts(cfg.model):
        if part['type'] == 'FocalLoss':
            part['type'] = 'LeanFocalLoss'
    if not any(hook['type'] == 'LeanHook' for hook in cfg.custom_hooks):
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='LeanHook')]
