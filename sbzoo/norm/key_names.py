"""What published checkpoints call the layers that a `Norm` stands for.

A `Norm` is named as batch norm is (`bn1`), whatever its spec. There are two rules to load others:

- MMDetection names a layer after its class, so group norm is `gn1` there, and in the GN and GN+WS
  checkpoints that were trained with it.
- IBN-Net keeps the halves of its norm apart, as `bn1.IN` and `bn1.BN`.

Layers in an `nn.Sequential` are named by their position everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbzoo.norm.layers import Norm, alpha_as_vector

OWN = Norm._abbr_
PUBLISHED = ('gn', 'in', 'ln')  # mmcv's for group, instance and layer norm


def accept_published_names(model: nn.Module) -> None:
    """Let `load_state_dict` of a model, and of each of its parts, take published names too.

    A key is renamed only where it names the very layer that a `Norm` stands for: `gn2.weight`
    becomes `bn2.weight` in a module that has a `Norm` called `bn2` and nothing called `gn2`.
    Loading is as strict as before: a name that is not understood is still unexpected.

    Args:
        model: Any network that has a `Norm`.
    """
    for module in model.modules():
        if any(isinstance(child, Norm) for child in module.children()):
            module.register_load_state_dict_pre_hook(_rename)


def with_own_names(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the keys of `model` where it has published names for them."""
    renamed = dict(state_dict)
    for path, module in model.named_modules():
        _rename(module, renamed, f'{path}.' if path else '')
    return renamed


def _rename(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    children = dict(module.named_children())
    for own, child in children.items():
        if isinstance(child, Norm):
            alpha_as_vector(state_dict, f'{prefix}{own}.')
        if isinstance(child, Norm) and own.startswith(OWN):
            published = {name + own.removeprefix(OWN) for name in PUBLISHED} - children.keys()
            _name_after_batch_norm(state_dict, prefix, own, published)
            if child.spec == 'ibn':
                _join_halves(state_dict, f'{prefix}{own}.', child)


def _name_after_batch_norm(
    state_dict: dict[str, Tensor], prefix: str, own: str, published: set[str]
) -> None:
    for key in [k for k in state_dict if k.startswith(prefix)]:
        name, _, parameter = key.removeprefix(prefix).partition('.')
        new = f'{prefix}{own}.{parameter}'
        if name in published and new not in state_dict:
            state_dict[new] = state_dict.pop(key)


def _join_halves(state_dict: dict[str, Tensor], prefix: str, norm: Norm) -> None:
    for key, tensor in norm.state_dict().items():
        batch = state_dict.pop(f'{prefix}BN.{key}', None)
        if batch is not None and tensor.dim():
            unused = tensor[: norm.num_features // 2].to(batch)  # instance norm runs no statistics
            batch = torch.cat([state_dict.pop(f'{prefix}IN.{key}', unused), batch])
        if batch is not None:
            state_dict[prefix + key] = batch
