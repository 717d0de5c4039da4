"""Schedule, linear learning rate scaling, batch size and gradient accumulation."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.logging import print_log

from sbzoo.engine.options.parts import wrappers_of
from sbzoo.engine.ranks import world_size
from sbzoo.errors import UserError


def set_epochs(cfg: Config, epochs: int) -> None:
    """Train for `epochs`, with the schedule stretched to them.

    Raises:
        UserError: The config counts iterations.
    """
    old = cfg.train_cfg.get('max_epochs')
    if not old:
        raise UserError('--epochs: the config counts iterations; set train_cfg.max_iters instead')
    cfg.train_cfg.max_epochs = epochs
    cfg.train_cfg.val_interval = min(cfg.train_cfg.get('val_interval', 1), epochs)
    ratio = epochs / old
    for scheduler in _schedulers(cfg.get('param_scheduler') or []):
        if scheduler.get('by_epoch', True):
            _stretch(scheduler, ratio)
    for hook in cfg.get('custom_hooks') or []:  # RTMDet and YOLOX end without augmentation
        for key in {'switch_epoch', 'num_last_epochs'} & hook.keys():
            hook[key] = round(hook[key] * ratio)
    intervals = cfg.train_cfg.get('dynamic_intervals') or []
    if intervals:
        cfg.train_cfg.dynamic_intervals = [(round(at * ratio), every) for at, every in intervals]


def _schedulers(given: dict | list) -> Iterator[dict]:
    """Those of a config: one, a list of them, or such for generator and discriminator."""
    if isinstance(given, dict) and 'type' in given:
        yield given
        return
    for part in given.values() if isinstance(given, dict) else given:
        yield from _schedulers(part)


def check_spans(cfg: Config, steps: int) -> None:
    """Check that no part of a schedule is shorter than a step, of `steps` an epoch.

    Raises:
        UserError: One is; mmengine would say so of numbers that nobody has given.
    """
    for scheduler in _schedulers(cfg.get('param_scheduler') or []):
        begin, end = scheduler.get('begin', 0), scheduler.get('end', 1e9)
        if scheduler.get('convert_to_iter_based') and int(begin * steps) >= int(end * steps):
            raise UserError(
                f'{scheduler["type"]} of the schedule is for {end - begin:.3g} epochs, and an '
                f'epoch has {steps} step(s): train more --epochs, at a smaller --batch or on more '
                'images'
            )


def _stretch(scheduler: dict, ratio: float) -> None:
    def stretched(epochs: float) -> float:
        exact = epochs * ratio
        return exact if scheduler.get('convert_to_iter_based') else round(exact)

    for key in {'begin', 'end', 'T_max', 'step_size'} & scheduler.keys():
        scheduler[key] = stretched(scheduler[key])
    if 'milestones' in scheduler:
        scheduler['milestones'] = [stretched(m) for m in scheduler['milestones']]


def set_lr(cfg: Config, lr: str) -> None:
    """Set the learning rate to a number, or scale the config's with `auto`.

    `auto` is linear scaling (Goyal et al. 2017, arXiv 1706.02677): devices x batch size per device
    x accumulated batches, over the `base_batch_size` that the config's learning rate is for.

    Raises:
        UserError: Neither a positive number nor `auto`.
    """
    optimizers = [wrapper.optimizer for wrapper in wrappers_of(cfg.optim_wrapper)]
    if lr != 'auto':
        for optimizer in optimizers:
            optimizer.lr = _positive(lr)
        return
    base = cfg.get('auto_scale_lr', {}).get('base_batch_size')
    if not base:
        print_log('lr auto: the config names no base_batch_size, so its lr stays', logger='current')
        return
    total, factors = _total_batch_size(cfg)
    for optimizer in optimizers:
        old, optimizer.lr = optimizer.lr, optimizer.lr * total / base
        print_log(
            f'lr auto: {old:g} for batch size {base}, so {optimizer.lr:g} for {factors}',
            logger='current',
        )
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=total)


def _positive(lr: str) -> float:
    try:
        value = float(lr)
    except ValueError:
        value = 0.0
    if not 0 < value < float('inf'):
        raise UserError(f'--lr {lr}: give a positive number or "auto"')
    return value


def _total_batch_size(cfg: Config) -> tuple[int, str]:
    devices = world_size(cfg.get('launcher', 'none'))
    batch = cfg.train_dataloader.batch_size
    accumulated = wrappers_of(cfg.optim_wrapper)[0].get('accumulative_counts', 1)
    factors = f'{devices} device(s) x batch size {batch} x {accumulated} accumulated'
    return devices * batch * accumulated, factors


def warn_if_lr_is_for_another_batch(cfg: Config) -> None:
    """Warn that the learning rate is kept though the total batch size is not the config's."""
    base = cfg.get('auto_scale_lr', {}).get('base_batch_size')
    total, factors = _total_batch_size(cfg)
    if base and base != total:
        lr = wrappers_of(cfg.optim_wrapper)[0].optimizer.lr
        print_log(
            f'lr {lr:g} stays, though the config means it for batch size {base} and this run '
            f'takes {factors}; --lr auto scales it',
            logger='current',
            level=logging.WARNING,
        )


def set_batch(cfg: Config, batch: int) -> None:
    """Set the batch size per device, with the learning rate scaled to it."""
    cfg.train_dataloader.batch_size = batch
    set_lr(cfg, 'auto')


def set_accumulate(cfg: Config, batches: int) -> None:
    """Gradient accumulation over `batches` batches, with the learning rate scaled to them."""
    for wrapper in wrappers_of(cfg.optim_wrapper):
        wrapper.accumulative_counts = batches
    set_lr(cfg, 'auto')
