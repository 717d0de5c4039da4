"""Schedule, batch size and gradient accumulation."""

from __future__ import annotations

import logging

from mmengine.config import Config
from mmengine.logging import print_log

from sbzoo.engine.options.parts import schedulers_of, wrappers_of
from sbzoo.errors import UserError

WARM_UPS = 'LinearLR', 'ConstantLR', 'QuadraticWarmupLR'
LOOPS = dict(
    EpochBasedTrainLoop='AccumulatingEpochLoop', IterBasedTrainLoop='AccumulatingIterLoop'
)  # of mmengine -> of `sbzoo.engine.loops`


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
    for scheduler in schedulers_of(cfg):
        if scheduler.get('by_epoch', True):
            _stretch(scheduler, ratio)
    for hook in cfg.get('custom_hooks') or []:  # RTMDet and YOLOX end without augmentation
        for key in {'switch_epoch', 'num_last_epochs'} & hook.keys():
            hook[key] = round(hook[key] * ratio)
    intervals = cfg.train_cfg.get('dynamic_intervals') or []
    if intervals:
        cfg.train_cfg.dynamic_intervals = [(round(at * ratio), every) for at, every in intervals]


def check_spans(cfg: Config, steps: int) -> None:
    """Check that no part of a schedule is shorter than a step, of `steps` an epoch.

    Raises:
        UserError: One is; mmengine would say so of numbers that nobody has given.
    """
    for scheduler in schedulers_of(cfg):
        begin, end = scheduler.get('begin', 0), scheduler.get('end', 1e9)
        if scheduler.get('convert_to_iter_based') and int(begin * steps) >= int(end * steps):
            raise UserError(
                f'{scheduler["type"]} of the schedule is for {end - begin:.3g} epochs, and an '
                f'epoch has {steps} step(s): train more --epochs, at a smaller --batch or on more '
                'images'
            )


def warn_if_warm_up_outlasts(cfg: Config, steps: int) -> None:
    """Warn of a warm-up in iterations that a training does not end, of `steps` an epoch."""
    length = cfg.train_cfg.get('max_iters') or cfg.train_cfg.max_epochs * steps
    for index, scheduler in enumerate(schedulers_of(cfg)):
        kind, end = scheduler['type'].rpartition('.')[2], scheduler.get('end', 0)
        if kind in WARM_UPS and not scheduler.get('by_epoch', True) and end > length:
            print_log(
                f'warm-up takes {end} steps (param_scheduler.{index}) and the training {length}, '
                'so it never reaches its learning rate: train longer, or shorten it in the config',
                logger='current',
                level=logging.WARNING,
            )


def _stretch(scheduler: dict, ratio: float) -> None:
    def stretched(epochs: float) -> float:
        exact = epochs * ratio
        return exact if scheduler.get('convert_to_iter_based') else round(exact)

    for key in {'begin', 'end', 'T_max', 'step_size'} & scheduler.keys():
        scheduler[key] = stretched(scheduler[key])
    if 'milestones' in scheduler:
        scheduler['milestones'] = [stretched(m) for m in scheduler['milestones']]


def set_batch(cfg: Config, batch: int) -> None:
    """Set the batch size per device."""
    cfg.train_dataloader.batch_size = batch


def set_loop(cfg: Config) -> None:
    """Let an iteration be one update, of all the micro-batches that are accumulated for it."""
    if loop := cfg.get('train_cfg'):
        by_epoch = 'EpochBasedTrainLoop' if loop.pop('by_epoch', False) else 'IterBasedTrainLoop'
        kind = loop.setdefault('type', by_epoch)
        loop.type = LOOPS.get(kind, kind)


def set_accumulate(cfg: Config, batches: int) -> None:
    """Gradient accumulation over `batches` micro-batches."""
    for wrapper in wrappers_of(cfg.optim_wrapper):
        wrapper.accumulative_counts = batches


def set_loss_normalizer(cfg: Config, kind: str) -> None:
    """Divide a detector's losses by one of `sbzoo.engine.loss_normalizers.NORMALIZERS`.

    Raises:
        UserError: The config is of a GAN, or has a training loop of its own.
    """
    if 'optimizer' not in cfg.optim_wrapper:
        raise UserError('--loss-normalizer: the losses of a GAN are means over its images')
    if cfg.train_cfg.type not in LOOPS.values():
        raise UserError(
            f'--loss-normalizer: train_cfg.type={cfg.train_cfg.type} has none; valid are '
            f'{", ".join(LOOPS.values())}'
        )
    cfg.train_cfg.loss_normalizer = kind
