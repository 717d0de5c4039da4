"""`--lr`: learning rate, moments, averages and schedule for another batch size than the config's.

With kappa = new batch size / that of the config (devices x batch size per device x accumulated
batches):

- SGD with momentum: learning rate x kappa (Goyal et al. 2017, arXiv 1706.02677).
- Adam and RMSprop: learning rate x sqrt(kappa) (Malladi et al. 2022, arXiv 2205.10287) and
  beta2 ^ kappa, which keeps the half-life of the second moment in images (Marek et al. 2025,
  arXiv 2507.07101). beta1 and epsilon stay; Malladi et al. scale both, Marek et al. keep beta1.
- Weight decay of AdamW x sqrt(kappa): a step decays by learning rate x weight decay, which is then
  fixed in images, as SGD has it by the learning rate alone (Bergsma et al. 2025, arXiv 2505.13738).
- Moving averages of the weights: rho ^ kappa (Busbridge et al. 2023, arXiv 2307.13813).
- What counts iterations, warm-up above all: / kappa, so that it counts images. Epochs stay.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from math import expm1, log1p, prod, sqrt
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, OPTIMIZERS

from sbzoo.engine.options.parts import (
    dataset_of,
    schedulers_of,
    wrappers_by_network,
    wrappers_of,
)
from sbzoo.engine.ranks import world_size
from sbzoo.errors import UserError

NAMED = re.compile(r'(?<![a-z\d])(\d+)xb(\d+)(?!\d)')  # devices x batch size, of MMDetection
COUNTS = 'begin', 'end', 'T_max', 'step_size', 'milestones', 'periods', 'total_steps'
LEVELS = 'eta_min', 'eta_max', 'min_value'  # learning rates of a schedule
LINEAR, ROOT, IN_IMAGES = 'x kappa', 'x sqrt(kappa)', '/ kappa: counted in images'
HALF_LIFE = '^ kappa: half-life in images'


class Scaled(NamedTuple):
    """A value of a config that another batch size changes, and the rule for it."""

    what: str
    old: Any
    new: Any
    rule: str


def set_lr(cfg: Config, lr: str) -> None:
    """Set the learning rate to a number, or scale the config to its batch size.

    `auto` does all that this module names, `linear` scales the learning rate alone, whatever the
    optimizer. What has changed is logged as one table. The batch size that the config is for then
    is recorded as `auto_scale_lr.base_batch_size`, so that it is scaled once.

    Raises:
        UserError: Neither a positive number nor `auto` nor `linear`.
    """
    if lr in RULES:
        _scale(cfg, lr)
        return
    for wrapper in wrappers_of(cfg.optim_wrapper):
        wrapper.optimizer.lr = _positive(lr)
    if base_batch_size(cfg):
        _record(cfg)


def _positive(lr: str) -> float:
    try:
        value = float(lr)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise UserError(f'--lr {lr}: give a positive number, "auto" or "linear"')
    return value


def base_batch_size(cfg: Config) -> int | None:
    """The total batch size that the learning rate of a config is for; None if it does not say.

    NxbM in the name of its file comes first: `base_batch_size` of many of MMDetection's configs is
    one that they have inherited. A config that has been scaled keeps its name, and is marked; so is
    one whose `base_batch_size` the user has given.
    """
    marked, named = (cfg.get('auto_scale_lr') or {}).get('scaled'), _named(cfg)
    return _stated(cfg) if marked or not named else named


def trust_base_batch_size(cfg: Config) -> None:
    """Mark a config whose `base_batch_size` holds whatever its name says."""
    cfg.auto_scale_lr.scaled = True


def _stated(cfg: Config) -> int | None:
    return (cfg.get('auto_scale_lr') or {}).get('base_batch_size')


def _named(cfg: Config) -> int | None:
    found = NAMED.search(Path(cfg.filename or '').name)
    return found and int(found[1]) * int(found[2])


def total_batch_size(cfg: Config) -> int:
    """Images of one step of the optimizer: devices x batch size x accumulated batches."""
    return world_size(cfg.get('launcher', 'none')) * images_per_device(cfg)


def images_per_device(cfg: Config) -> int:
    """Images of one step of the optimizer on one device."""
    return prod(_counts(cfg))


def _counts(cfg: Config) -> tuple[int, int, int]:
    """Batch size, accumulated batches, and the images of a sample.

    A sample of re-identification is a batch of triplets: images of several persons, each with
    several, which MMDetection counts in the names of such configs.
    """
    triplets = dataset_of(cfg, 'train').get('triplet_sampler')
    images = triplets.num_ids * triplets.ins_per_id if triplets else 1
    accumulated = wrappers_of(cfg.optim_wrapper)[0].get('accumulative_counts', 1)
    return cfg.train_dataloader.batch_size, accumulated, images


def _factors(cfg: Config) -> str:
    devices, (batch, accumulated, images) = world_size(cfg.get('launcher', 'none')), _counts(cfg)
    of_samples = f' x {images} images of a sample' if images > 1 else ''
    return f'{devices} device(s) x batch size {batch} x {accumulated} accumulated{of_samples}'


def _record(cfg: Config) -> None:
    mark = dict(scaled=True) if _named(cfg) else {}
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=total_batch_size(cfg), **mark)


def warn_if_lr_is_for_another_batch(cfg: Config) -> None:
    """Warn that the learning rate is kept though the total batch size is not the config's."""
    base = base_batch_size(cfg)
    if base and base != total_batch_size(cfg):
        lr = wrappers_of(cfg.optim_wrapper)[0].optimizer.lr
        print_log(
            f'lr {lr:g} stays, though the config means it for batch size {base} and this run '
            f'takes {_factors(cfg)}; --lr auto scales it',
            logger='current',
            level=logging.WARNING,
        )


def _scale(cfg: Config, lr: str) -> None:
    base = base_batch_size(cfg)
    if not base:
        print_log(
            f'lr {lr}: the config names no base_batch_size, so its lr stays', logger='current'
        )
        return
    source, kappa = _source(cfg), total_batch_size(cfg) / base
    scaled = RULES[lr](cfg, kappa) if kappa != 1 else ()
    changes = [change for change in scaled if change.old != change.new]
    _record(cfg)
    print_log(
        f'lr {lr}: {source}, and this run takes {_factors(cfg)}, so kappa = {kappa:g}'
        + table(changes),
        logger='current',
    )


def _source(cfg: Config) -> str:
    """What the config is for, where it says so, and what it is not for though it says so."""
    base, named, stated = base_batch_size(cfg), _named(cfg), _stated(cfg)
    if base == named:
        where = 'name says'
        other = f'its base_batch_size={stated}' if stated not in (None, base) else ''
    else:
        where, other = 'base_batch_size says', f'the {named} of its name' if named else ''
    contradicted = f', and not for {other}' if other else ''
    return f'the config is for batch size {base}, as its {where}{contradicted}'


def table(changes: list[Scaled]) -> str:
    """The changes as aligned columns, each row on a line of its own."""
    head = Scaled('what', 'from', 'to', 'rule')
    rows = [head, *(c._replace(old=_shown(c.old), new=_shown(c.new)) for c in changes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ('  '.join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return ''.join(f'\n  {line}' for line in lines) if changes else '\n  nothing changes'


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f'({", ".join(map(_shown, value))})'
    return f'{value:.7g}' if isinstance(value, float) else str(value)


def _set(part: dict, key: str, new: Any, rule: str, name: str, default: Any = None) -> Scaled:
    old, part[key] = part.get(key, default), new
    return Scaled(f'{name}.{key}', old, new, rule)


def _linear(cfg: Config, kappa: float) -> Iterator[Scaled]:
    for name, optimizer in _optimizers(cfg):
        lr = _options(optimizer)['lr']
        yield _set(optimizer, 'lr', lr * kappa, LINEAR, name, lr)


def _by_optimizer(cfg: Config, kappa: float) -> Iterator[Scaled]:
    factors = {}
    for name, optimizer in _optimizers(cfg):
        lr = _options(optimizer)['lr']
        yield from _scale_optimizer(optimizer, kappa, name)
        for scheduler in schedulers_of(cfg, name.partition('.')[0]):
            factors.setdefault(id(scheduler), (scheduler, optimizer['lr'] / lr))
    for scheduler, factor in factors.values():
        yield from _scale_levels(scheduler, factor)
    for hook in cfg.get('custom_hooks') or []:
        if hook['type'] == 'EMAHook':
            yield from _scale_average(hook, kappa, cfg.get('default_scope') or 'mmdet')
    for part, keys, name in _counted(cfg):
        for key in [key for key in keys if key in part]:
            yield _set(part, key, _in_images(part[key], kappa), IN_IMAGES, name)


RULES = dict(auto=_by_optimizer, linear=_linear)


def _optimizers(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Those of a config by name: one, or of a GAN those of its networks."""
    for network, wrapper in wrappers_by_network(cfg.optim_wrapper).items():
        yield f'{network}.optimizer'.lstrip('.'), wrapper.optimizer


def _defaults(built: Any) -> dict[str, Any]:
    parameters = inspect.signature(built).parameters if built else {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _options(optimizer: dict) -> dict[str, Any]:
    """What a config says of an optimizer, and what that has by default."""
    return {**_defaults(OPTIMIZERS.get(optimizer['type'])), **optimizer}


def _scale_optimizer(optimizer: dict, kappa: float, name: str) -> Iterator[Scaled]:
    """By the moments that it has: of the gradient alone, or of its square too."""
    options = _options(optimizer)
    squares = 'betas' in options or optimizer['type'] == 'RMSprop'
    factor, rule = (sqrt(kappa), ROOT) if squares else (kappa, LINEAR)
    yield _set(optimizer, 'lr', options['lr'] * factor, rule, name, options['lr'])
    if 'betas' in options:
        beta1, beta2 = betas = options['betas']
        yield _set(optimizer, 'betas', (beta1, beta2**kappa), HALF_LIFE, name, betas)
    elif squares:
        alpha = options['alpha']
        yield _set(optimizer, 'alpha', alpha**kappa, HALF_LIFE, name, alpha)
    if optimizer['type'] == 'AdamW':
        decay = options['weight_decay']
        yield _set(optimizer, 'weight_decay', decay * factor, ROOT, name, decay)


def _scale_levels(scheduler: dict, factor: float) -> Iterator[Scaled]:
    """Where a schedule ends at a learning rate, not at a fraction of one."""
    if scheduler['type'].endswith('LR'):
        for key in LEVELS:
            if scheduler.get(key):
                yield _set(scheduler, key, scheduler[key] * factor, 'as lr', scheduler['type'])


def _scale_average(hook: dict, kappa: float, scope: str) -> Iterator[Scaled]:
    """The momentum 1 - rho of an EMA, and what it counts in iterations."""
    kind = hook.get('ema_type', 'ExponentialMovingAverage')
    with MODELS.switch_scope_and_registry(scope) as registry:
        options = {**_defaults(registry.get(kind)), **hook}
    if 'momentum' in options:
        old = options['momentum']
        new = -expm1(kappa * log1p(-old))
        yield _set(hook, 'momentum', new, '1 - rho ^ kappa: half-life in images', kind, old)
    if kind == 'ExpMomentumEMA':  # whose first iterations are forgotten sooner
        gamma = options['gamma']
        yield _set(hook, 'gamma', _in_images(gamma, kappa), IN_IMAGES, kind, gamma)
    if 'begin_iter' in hook:
        yield _set(hook, 'begin_iter', _in_images(hook['begin_iter'], kappa), IN_IMAGES, kind)


def _counted(cfg: Config) -> Iterator[tuple[dict, tuple[str, ...], str]]:
    """The parts of a config that count iterations, by which keys, and their names."""
    for scheduler in schedulers_of(cfg):
        if not scheduler.get('by_epoch', True):
            yield scheduler, COUNTS, scheduler['type']
    if 'max_iters' in cfg.train_cfg:
        keys = 'max_iters', 'val_begin', 'val_interval', 'dynamic_intervals'
        yield cfg.train_cfg, keys, 'train_cfg'
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if not checkpoint.get('by_epoch', True):
        yield checkpoint, ('interval',), 'checkpoint'


def _in_images(count: Any, kappa: float) -> Any:
    """A number of iterations, or several, for as many images."""
    if isinstance(count, list | tuple):
        return type(count)(_in_images(each, kappa) for each in count)
    return max(1, round(count / kappa)) if count > 0 else count
