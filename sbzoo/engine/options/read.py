"""Reading configs, and finding one's way in them."""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from sbzoo.errors import UserError


def load_config(name: str) -> Config:
    """Read a config file, or one of an installed library as `mmdet::retinanet/....py`.

    Raises:
        UserError: There is none of this name, or it is no valid config.
    """
    path = _find(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, map(str, Path('configs').rglob('*.py')), n=3)
        hint = f'; did you mean {" or ".join(near)}?' if near else ''
        raise UserError(f'{name}: no such config{hint}')
    try:
        cfg = Config.fromfile(path)
    except (OSError, SyntaxError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f'{name}: not a config that can be read ({error})') from error
    if 'model' not in cfg:
        raise UserError(f'{name}: the config has no model')
    return cfg


def _find(name: str) -> Path:
    library, _, path = name.rpartition('::')
    if not library:
        return Path(path)
    spec = find_spec(library)
    if spec is None:
        raise UserError(f'{name}: {library} is not installed')
    return Path(spec.origin).parent / '.mim' / 'configs' / path


def typed_dicts(node: object) -> Iterator[ConfigDict]:
    """All dicts of a config that name a type, outermost first."""
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            yield node
        for value in node.values():
            yield from typed_dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from typed_dicts(value)


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
