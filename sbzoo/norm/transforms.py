"""What torch makes of a function: traced, differentiated forward, batched over (torch.func).

An autograd function with a backward of its own is opaque to these, so that norms run in plain
torch within them: the same numbers, at the price of torch's own gradient.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from sbzoo.errors import UserError


def in_plain_torch() -> bool:
    """Whether it takes operations of torch alone."""
    return is_traced() or in_torch_func()


def is_traced() -> bool:
    """Whether operators are recorded, by torch.compile or for an export, and not just run."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def in_torch_func() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is under way."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def refuse_torch_func(what: str) -> None:
    """Refuse a transform by name.

    Raises:
        UserError: One is under way.
    """
    if in_torch_func():
        raise UserError(
            f'{what} cannot be transformed by torch.func (grad, jvp, vmap) in training: '
            'use .eval(), or a norm of each sample (gn, ln, in)'
        )
