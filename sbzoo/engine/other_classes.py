"""Transfer to other classes: all of a checkpoint but the layers that depend on their number."""

from __future__ import annotations

import copy
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_state_dict
from torch import Tensor, nn

from sbzoo.checkpoint.io import check_fit, named_as_in
from sbzoo.checkpoint.key_maps import Weights
from sbzoo.engine.model import build_model
from sbzoo.engine.options.parts import typed_dicts
from sbzoo.engine.runner import random_state_kept

NUM_CLASSES = re.compile(r'num_(\w+_)?classes')


def fit_but_for_classes(
    source: str | Path, weights: Weights, model: nn.Module, cfg: Config
) -> Weights:
    """Weights of a model, or of the same model with another number of classes.

    What depends on that number is found by building the model of the config with another one: a
    tensor may differ from the model's in the dimensions that change then, and in no other. Those
    that do keep the values of the model, and are listed in the log.

    Args:
        source: Where they come from, for messages.
        weights: Of a checkpoint.
        model: What they are to be loaded into.
        cfg: The config that the model is of.

    Returns:
        A whole state dict of the model.

    Raises:
        UserError: They are of another model in anything else.
    """
    own, weights = get_state_dict(model), named_as_in(model, weights)
    left = {k: v for k, v in weights.items() if k in own and v.shape != own[k].shape}
    if left:
        other = get_state_dict(_with_other_classes(cfg))
        left = {k: v for k, v in left.items() if k in other and _agree(v, own[k], other[k])}
    checked = check_fit(source, {**weights, **{key: own[key] for key in left}}, model)
    if left:
        shapes = (f'  {k} {list(v.shape)} for {list(own[k].shape)}' for k, v in left.items())
        line = f'{source}: its classes are others in number; not loaded from it:'
        print_log('\n'.join([line, *shapes]), logger='current')
    return checked


def _with_other_classes(cfg: Config) -> nn.Module:
    cfg = copy.deepcopy(cfg)
    for part in typed_dicts(cfg.model):
        for key, value in part.items():
            if NUM_CLASSES.fullmatch(key) and isinstance(value, int) and value:
                part[key] = value + 1
    with random_state_kept():
        return build_model(cfg)


def _agree(given: Tensor, own: Tensor, other: Tensor) -> bool:
    """Whether shapes are equal but where those of the two models with other classes are not."""
    if not given.ndim == own.ndim == other.ndim or given.is_complex() != own.is_complex():
        return False
    sizes = zip(given.shape, own.shape, other.shape, strict=True)
    return all(a == b or b != c for a, b, c in sizes)
