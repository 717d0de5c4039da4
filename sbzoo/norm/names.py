"""What published checkpoints call the layers that a `Norm` stands for.

A `Norm` is named as batch norm is (`bn1`), whatever its spec. MMDetection names a layer after its
class, so group norm is `gn1` there, and in the GN and GN+WS checkpoints that were trained with it.
Layers in an `nn.Sequential` are named by their position in both.
"""

from __future__ import annotations

from torch import Tensor, nn

from sbzoo.norm.layers import Norm

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
        if isinstance(child, Norm) and own.startswith(OWN):
            published = {name + own.removeprefix(OWN) for name in PUBLISHED} - children.keys()
            for key in [k for k in state_dict if k.startswith(prefix)]:
                name, _, parameter = key.removeprefix(prefix).partition('.')
                new = f'{prefix}{own}.{parameter}'
                if name in published and new not in state_dict:
                    state_dict[new] = state_dict.pop(key)
