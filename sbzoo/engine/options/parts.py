"""The parts of a config that its options change, wherever they are in it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS


def dicts(node: object) -> Iterator[ConfigDict]:
    """All dicts of a config, outermost first."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, (dict, list, tuple)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from dicts(value)


def typed_dicts(node: object) -> Iterator[ConfigDict]:
    """Those that name a type."""
    return (part for part in dicts(node) if isinstance(part.get('type'), str))


def norm_of(model: Config) -> str:
    """The spec that most parts of a model have; of an adversarial one, its generator's."""
    if 'generator' in model:
        default = inspect.signature(MODELS.get(model.generator.type)).parameters.get('norm')
        return model.generator.get('norm') or (default.default if default else '')
    specs = Counter(spec for part in typed_dicts(model) if (spec := _spec(part)))
    return specs.most_common(1)[0][0] if specs else ''


def _spec(part: dict) -> str:
    layer = part.get('norm_cfg') or {}
    own = {'Norm': layer.get('spec'), 'GN': f'gn{layer.get("num_groups")}'}
    named = layer and own.get(layer['type'], layer['type'].lower())
    return part['norm'] if isinstance(part.get('norm'), str) else named


def leaf(dataset: ConfigDict) -> ConfigDict:
    """The innermost data set of wrappers such as RepeatDataset; the first where they hold more."""
    while inner := dataset.get('dataset') or dataset.get('datasets'):
        dataset = inner[0] if isinstance(inner, list) else inner
    return dataset


def section(cfg: Config, name: str) -> dict:
    """A part of a config by its name; empty where it has none, or None in its place."""
    return cfg.get(name) or {}


def dataset_of(cfg: Config, split: str) -> dict:
    """That of a split; empty where the config has none, as one for evaluation alone."""
    return leaf(section(cfg, f'{split}_dataloader').get('dataset') or {})


def wrappers_of(optim_wrapper: dict) -> list[dict]:
    """The configs of a training's optimizer wrappers: one, or of a GAN one for each network."""
    return list(wrappers_by_network(optim_wrapper).values())


def wrappers_by_network(optim_wrapper: dict) -> dict[str, dict]:
    """The same by the name of the network, which is empty where there is one."""
    if 'optimizer' in optim_wrapper:
        return {'': optim_wrapper}
    return {name: value for name, value in optim_wrapper.items() if isinstance(value, dict)}


def schedulers_of(cfg: Config, network: str = '') -> list[dict]:
    """The configs of a training's schedulers; where each network has its own, of one or of all."""
    given = cfg.get('param_scheduler') or []
    if isinstance(given, dict) and 'type' not in given:
        given = [given[network]] if network in given else list(given.values())
    return list(_flat(given))


def _flat(given: dict | list) -> Iterator[dict]:
    if isinstance(given, dict):
        yield given
        return
    for part in given:
        yield from _flat(part)
