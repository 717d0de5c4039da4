"""`--resume` with other options: what a run can go on with, and what would be another run.

mmengine goes on with the optimizer's options, the schedule and the seed of the checkpoint, whatever
the config says. Here the config is compared with the one that the checkpoint was written under.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from sbzoo.engine.options.parts import leaf, norm_of
from sbzoo.engine.options.scaling import images_per_device, total_batch_size
from sbzoo.engine.options.schedule import set_loop
from sbzoo.engine.ranks import world_size
from sbzoo.errors import UserError

# What the weights and the moments of the optimizer are of.
FIXED = re.compile(
    r'model\.(?!(.*\.)?test_cfg)|load_from$|train_cfg\.(type|by_epoch)$'
    r'|optim_wrapper\.((\w+\.)?optimizer\.(type|amsgrad|centered)|constructor)$'
)
# What mmengine takes from the checkpoint, and what follows from it.
SCHEDULED = re.compile(r'optim_wrapper\.|param_scheduler|auto_scale_lr\.|train_cfg\.(max_|loss_n)')
EQUAL_GRADIENTS = {'FocalLoss', 'LeanFocalLoss'}  # of `--lean`
ON_METRICS = 'ReduceOnPlateau'  # schedules that no config determines
SHOWN = 60  # characters of a value
DEVICES = 'devices'  # in the meta data of a checkpoint


class Change(NamedTuple):
    """A value of a config that differs between a run and its resumption."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        old, new = (repr(value)[:SHOWN] for value in (self.old, self.new))
        return f'{self.path} {old} -> {new}'


def recorded(meta: dict) -> ConfigDict:
    """The config that a checkpoint was written under; empty if it does not say.

    Its text is read as data, and never run.
    """
    try:
        lines = ast.parse(meta.get('cfg') or '').body
        values = {line.targets[0].id: _value(line.value) for line in lines}
    except (SyntaxError, ValueError, TypeError, AttributeError, IndexError):
        values = {}
    return ConfigDict(values)


def _value(node: ast.expr) -> Any:
    return ast.literal_eval(_Literals().visit(node))


class _Literals(ast.NodeTransformer):
    """What mmengine writes into the text of a config beside literals."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """`dict(a=1)` and `dict({'a.b': 1})`."""
        if ast.unparse(node.func) != 'dict':
            raise ValueError(f'{ast.unparse(node)}: no text of a config')
        self.generic_visit(node)
        if node.args:
            return node.args[0]
        return ast.Dict(
            [ast.Constant(k.arg) for k in node.keywords], [k.value for k in node.keywords]
        )

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """`inf`, `nan`, and types of Python."""
        return ast.Constant(float(node.id) if node.id in ('inf', 'nan') else node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Types of a library."""
        return ast.Constant(ast.unparse(node))


def changes(meta: dict, cfg: Config) -> list[Change]:
    """Where a config differs from that of a checkpoint; empty if that does not say its own."""
    old, new = recorded(meta), Config(cfg.to_dict(), format_python_code=False).pretty_text
    new = recorded(dict(cfg=new))
    for cfg in (old, new):  # mmengine's loop of an older run is the same without accumulation
        set_loop(cfg)
    return list(_differences(old, new)) if old else []


def _differences(old: Any, new: Any, path: str = '') -> Iterator[Change]:
    """Of values; where one has a key more, of that with None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f'{path}.{key}'.lstrip('.'))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f'{path}.{index}')
    elif repr(old) != repr(new):  # nan is equal to itself here
        yield Change(path, old, new)


def rescheduled(meta: dict, cfg: Config) -> list[Change]:
    """The changes that mmengine would record and ignore."""
    return [change for change in changes(meta, cfg) if SCHEDULED.match(change.path)]


def check_resumable(source: str | Path, checkpoint: dict, cfg: Config) -> None:
    """Check that a config goes on with the run of a checkpoint, and does not begin another.

    Raises:
        UserError: It is of another model, norm, optimizer, start, seed or classes, or ends before
            the checkpoint; or the checkpoint cannot be resumed from. The message names both values.
    """
    meta = checkpoint['meta']
    if 'optimizer' not in checkpoint or not {'epoch', 'iter'} <= meta.keys():
        raise UserError(
            f'{source}: has no state of an optimizer to resume (the best checkpoint has none); '
            '--load-from starts a run from its weights'
        )
    for change in _fixed(meta, cfg):
        raise UserError(
            f'{source}: --resume cannot change {change}; give the options that the run was '
            'started with, or start another by --load-from'
        )
    _check_length(source, meta, cfg)


def _fixed(meta: dict, cfg: Config) -> Iterator[Change]:
    """What differs and cannot, the most telling first."""
    old, found = recorded(meta), changes(meta, cfg)
    resumes = bool(old.get('resume') or cfg.get('resume'))  # as mmengine does it: by load_from
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None and meta.get('seed') not in (None, seed):
        yield Change('the seed', meta['seed'], seed)
    if old:
        yield from _differences(_norm(old), _norm(cfg), 'the norm')
        yield from _differences(_classes(old), _classes(cfg), 'the classes')
    for change in found:
        if FIXED.match(change.path) and not _is_let_pass(change, resumes):
            yield change
    metrics = ON_METRICS in repr((old.get('param_scheduler'), cfg.get('param_scheduler')))
    yield from (c for c in found if metrics and SCHEDULED.match(c.path))


def _is_let_pass(change: Change, resumes: bool) -> bool:
    if change.path == 'load_from':
        return resumes
    return {str(change.old), str(change.new)} == EQUAL_GRADIENTS


def _norm(cfg: ConfigDict) -> str | None:
    return norm_of(cfg.model) if 'model' in cfg else None


def _classes(cfg: ConfigDict) -> list[str] | None:
    """The classes of the training data, in their order."""
    if 'train_dataloader' not in cfg:
        return None
    dataset = leaf(cfg.train_dataloader.dataset)
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope') or 'mmdet') as registry:
        known = getattr(registry.get(dataset.type), 'METAINFO', {})
    classes = (dataset.get('metainfo') or {}).get('classes') or known.get('classes')
    return classes and list(classes)


def steps_done(meta: dict, cfg: Config) -> int:
    """The iterations that the images of a checkpoint are, if the config counts iterations."""
    old = recorded(meta)
    counts = 'max_iters' in (cfg.get('train_cfg') or {})
    if not counts or not {'optim_wrapper', 'train_dataloader'} <= old.keys():
        return meta['iter']
    devices = meta.get(DEVICES) or world_size(cfg.get('launcher', 'none'))
    return round(meta['iter'] * devices * images_per_device(old) / total_batch_size(cfg))


def _check_length(source: str | Path, meta: dict, cfg: Config) -> None:
    for option, done in (('max_epochs', meta['epoch']), ('max_iters', steps_done(meta, cfg))):
        wanted = (cfg.get('train_cfg') or {}).get(option)
        if wanted and wanted < done:
            raise UserError(f'{source}: {option}={wanted}, and {done} are done already')
