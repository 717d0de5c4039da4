"""The model of a config or a card, with the weights of a reference."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner.checkpoint import get_state_dict
from torch import nn

from sbzoo.checkpoint.cards import Card
from sbzoo.checkpoint.io import check_fit, load
from sbzoo.checkpoint.key_maps import GENERATOR, Weights, below, without_wrappers
from sbzoo.engine.options.config import load_config
from sbzoo.engine.options.parts import dataset_of
from sbzoo.errors import UserError
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.gan.models.gan import GAN
from sbzoo.paths import ROOT


def config_of(card: Card) -> Config:
    """The config of a card, wherever it is called from.

    Raises:
        UserError: It has none.
    """
    if not card.config:
        raise UserError(f'card {card.name}: no config here builds its model')
    return load_config(card.config if '::' in card.config else str(ROOT / card.config))


def scope_of(cfg: Config) -> AbstractContextManager:
    """Where types without a library are looked up; what the user has set is left as it is."""
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet'))


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, with random weights and nothing downloaded."""
    with scope_of(cfg):
        return MODELS.build(cfg.model)


def load_model(cfg: Config, reference: str | Path, device: str | None = None) -> nn.Module:
    """The model of a config with the weights of a reference: ready to use, on the GPU if any.

    Its `dataset_meta` is, as in MMDetection, what is known of the data that it was trained on.

    Raises:
        UserError: The weights are not found, cannot be downloaded, or are of another model, or
            there is no such device.
    """
    place = _device(device or get_device())
    model, checkpoint = build_model(cfg), load(reference)
    model.load_state_dict(whole(checkpoint['state_dict'], model, reference))
    model.dataset_meta = _saved(checkpoint['meta']) or _metainfo(cfg)
    return model.to(place).eval()


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch was built without CUDA
        reason = str(error).partition('\n')[0]
        raise UserError(f'{name}: no device that torch can use here ({reason})') from error


def _saved(meta: dict) -> dict:
    """What a checkpoint says of its data; MMDetection 2 saved the names of classes alone."""
    saved = meta.get('dataset_meta') or {}
    saved = {key.lower(): value for key, value in saved.items()}
    return saved or (dict(classes=meta['CLASSES']) if meta.get('CLASSES') else {})


def classes_of(model: nn.Module, reference: str | Path) -> tuple[str, ...]:
    """The names of a loaded detector's classes: its checkpoint's, or else its config's.

    Raises:
        UserError: There are none, or not as many as the head has classes.
    """
    names = tuple(map(str, model.dataset_meta.get('classes') or ()))
    wanted = _num_classes(model)
    if not names or wanted not in (None, len(names)):
        raise UserError(
            f'{reference}: the model has {wanted or "unknown"} classes, and its checkpoint and '
            f'config name {len(names) or "none"}; name them by --classes, or in the config by '
            '`metainfo=dict(classes=[...])` of the training set'
        )
    return names


def _num_classes(model: nn.Module) -> int | None:
    """Those of the last head of boxes, which may be one of a cascade; None if none tells."""
    heads = (m for name, m in model.named_modules() if re.search(r'\bbbox_head(\.\d+)?$', name))
    counts = [head.num_classes for head in heads if hasattr(head, 'num_classes')]
    return counts[-1] if counts else None


def _metainfo(cfg: Config) -> dict:
    """What the config and the class of its training set say, without opening that."""
    dataset = dataset_of(cfg, 'train')
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry:
        kind = registry.get(dataset.get('type', ''))
    return {**getattr(kind, 'METAINFO', {}), **dataset.get('metainfo', {})}


def whole(weights: Weights, model: nn.Module, source: str | Path) -> Weights:
    """The state dict of a model with these weights, each of them and no other.

    Of an adversarial model they may be those of what samples or translates alone, as cards have
    them; the rest stays as it is.

    Raises:
        UserError: They are of another model.
    """
    of_generator = below(GENERATOR, weights)
    if not isinstance(model, AdversarialModel) or len(of_generator) < len(weights):
        return check_fit(source, weights, model)
    part = model.sampler if isinstance(model, GAN) else model.generator
    name = next(name for name, module in model.named_modules() if module is part)
    weights = check_fit(source, of_generator, part)
    own = get_state_dict(model)
    return own | without_wrappers({f'{name}.{key}': value for key, value in weights.items()}, own)


def kind_of(cfg: Config) -> type:
    """The class of a config's model, whatever `--norm` has made of it."""
    with MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmdet')) as registry:
        return registry.get(cfg.model.get('architecture') or cfg.model.type)
