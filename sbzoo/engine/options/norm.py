"""`--norm`: another norm in every part of a model that a config describes."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from sbzoo.engine.options.parts import typed_dicts
from sbzoo.norm import convert_norm, norm_cfg
from sbzoo.norm.spec import split_spec
from sbzoo.norm.supported import is_for_images


def set_norm(cfg: Config, spec: str) -> None:
    """Give every part of the model that has a norm the norm of `spec`.

    Where a `norm_cfg` (or `norm`, of sbzoo's own backbones) names a norm of images, or does so by
    default, it is replaced; a layer norm stays, and what is deliberately without (a RetinaNet
    head, say) stays so. `WithNorm` replaces the normalization layers that no `norm_cfg` reaches as
    the model is built.

    Raises:
        UserError: Unknown spec.
    """
    wanted = norm_cfg(split_spec(spec)[0])
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    parts = [part for part in typed_dicts(cfg.model) if _norm_argument(part)]
    for part in parts:
        argument = _norm_argument(part)
        part[argument] = spec if argument == 'norm' else {**wanted, **_kept_of(part)}
    if 'norm_cfg' in cfg:
        cfg.norm_cfg = dict(wanted)
    if cfg.model.type != 'WithNorm':
        cfg.model.update(type='WithNorm', architecture=cfg.model.type)
    cfg.model.norm = spec
    names = ', '.join(part['type'] for part in parts) or 'no norm_cfg is of images'
    print_log(f'norm {spec}: {names}', logger='current')


def _kept_of(part: dict) -> dict:
    """What stays of a part's norm: YOLOX and RTMDet have an eps and a momentum of their own."""
    old = part.get('norm_cfg') or _default_norm(part['type']) or {}
    return {key: old[key] for key in ('eps', 'momentum', 'count_padding') if key in old}


def _norm_argument(part: dict) -> str | None:
    """What names the norm of a part: `norm`, `norm_cfg`, or None if it has no norm of images."""
    built = _registered(part['type'])
    argument = signature(built.__init__).parameters.get('norm') if isinstance(built, type) else None
    if argument is not None:
        return None if part.get('norm', argument.default) == 'none' else 'norm'
    return 'norm_cfg' if _has_image_norm(part) else None


def _has_image_norm(part: dict) -> bool:
    norm = part['norm_cfg'] if 'norm_cfg' in part else _default_norm(part['type'])
    kind = _registered(norm['type']) if norm else None
    return isinstance(kind, type) and is_for_images(kind)


def _default_norm(name: str) -> dict | None:
    """The `norm_cfg` that a part is built with if it is told none; None if it takes none."""
    built = _registered(name)
    for cls in built.__mro__[:-1] if isinstance(built, type) else ():
        argument = signature(cls.__init__).parameters.get('norm_cfg')
        if argument is not None:
            return argument.default if isinstance(argument.default, dict) else None
    return None


def _registered(name: str) -> Callable | None:
    """The class or function that a type stands for in the default scope."""
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(name)


@MODELS.register_module('WithNorm')
def build_with_norm(architecture: str, norm: str, **parts) -> nn.Module:
    """Build `architecture` from its `parts` and replace the normalization layers left.

    In a config, `model = dict(type='WithNorm', norm='gn', architecture='FasterRCNN', ...)`. The
    result is the detector itself, with its own keys. Its layers are replaced before any weight is
    loaded, and before the optimizer or a distributed wrapper sees the parameters; a hook would
    come too late for all three.

    Args:
        architecture: The `type` that the model would have without.
        norm: See `sbzoo.norm.NORMS`.
        parts: The rest of the model's config.

    Raises:
        UserError: Unknown spec, or a model without norms.
    """
    model = MODELS.build(dict(type=architecture, **parts))
    record = convert_norm(model, norm)
    if record.changed or record.left:
        print_log(f'beyond norm_cfg: {record}', logger='current')
    return record.model
