"""Hooks that make a run exact to resume and stop it before it wastes time."""

from __future__ import annotations

import warnings

import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner, set_random_seed

from sbzoo.checkpoint.io import check_fit
from sbzoo.checkpoint.resolve import latest_checkpoint
from sbzoo.detection.preprocessing import check_preprocessing
from sbzoo.engine.batch_faults import faults, files, listed
from sbzoo.engine.model import whole
from sbzoo.engine.options.resume import DEVICES, check_resumable, rescheduled, steps_done
from sbzoo.engine.other_classes import fit_but_for_classes
from sbzoo.engine.runner import micro_batches, unwrapped
from sbzoo.errors import UserError
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.norm.key_names import accept_published_names

Batch = dict | list[dict]  # the latter where several micro-batches are accumulated
HINT = 'try a lower --lr or a longer warm-up'
CHANGES = 'changes'  # in mmengine's message hub, which checkpoints keep
NUMPY_SEEDS = 2**32  # which some thousand epochs go beyond
OPTIONS = 'param_groups', 'base_param_settings'  # of an optimizer's state; the latter is mmengine's


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes every epoch depend on nothing but the config and what a checkpoint keeps.

    So a run that was stopped and resumed goes on as if it had never been stopped: random numbers
    depend on seed, rank and epoch alone. Exact with `num_workers=0`, or with workers that are
    started anew each epoch.

    Resumed with another schedule, learning rate or batch size, it goes on where the whole run would
    be with these: learning rates and all other options of the optimizer are those of the config,
    fast-forwarded to the epoch reached; moments stay. What was changed is logged, and kept in the
    checkpoints to come.

    Raises:
        UserError: The config is of another run; see `sbzoo.engine.options.resume`.
    """

    def __init__(self) -> None:
        self.changes: list[str] = []

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what mmengine does not."""
        checkpoint['meta'][DEVICES] = get_world_size()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Before mmengine takes schedule and options of the optimizer from the checkpoint."""
        if not (runner._resume and isinstance(runner._train_loop, BaseLoop)):
            return
        check_resumable(runner._load_from or runner.work_dir, checkpoint, runner.cfg)
        _forget_validations(checkpoint)
        meta = checkpoint['meta']
        found = [*_recount(runner, meta), *map(str, rescheduled(meta, runner.cfg))]
        if found:
            reschedule(runner, checkpoint)
            runner.logger.info(f'resumed, with the schedule of the config: {"; ".join(found)}')
        found += _count_devices(meta)
        self.changes = [f'epoch {meta["epoch"]}: {change}' for change in found]

    def before_train(self, runner: Runner) -> None:
        """Let torch seed the workers, from the numbers of the epoch; mmengine's start alike."""
        loader = runner.train_dataloader
        if getattr(loader.worker_init_fn, 'func', None) is worker_init_fn:
            loader.worker_init_fn = None
        if self.changes:
            hub = runner.message_hub
            hub.update_info(CHANGES, [*hub.get_info(CHANGES, []), *self.changes])

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch."""
        set_random_seed((runner.seed + 1_000_003 * runner.epoch + get_rank()) % NUMPY_SEEDS)


def _forget_validations(checkpoint: dict) -> None:
    """Of earlier weights: a run whose last epoch is done already would end with their numbers."""
    hub = checkpoint['message_hub']
    for values in (hub['log_scalars'], hub['resumed_keys']):
        for name in [name for name in values if name.startswith('val/')]:
            del values[name]


def _recount(runner: Runner, meta: dict) -> list[str]:
    """Count the steps done as if all had had as many images as those to come; what changes."""
    done, why = meta['iter'], 'a step has another number of images now'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        length = len(runner.train_dataloader)
        meta['iter'], why = meta['epoch'] * length, f'an epoch has {length} steps now'
    else:
        meta['iter'] = steps_done(meta, runner.cfg)
    return [f'{why}, so step {done} is counted as {meta["iter"]}'] * (meta['iter'] != done)


def _count_devices(meta: dict) -> list[str]:
    old, new = meta.get(DEVICES, get_world_size()), get_world_size()
    return [] if old == new else [f'devices {old} -> {new}']


def reschedule(runner: Runner, checkpoint: dict) -> None:
    """Put the options of the optimizer and the schedule of the config into a checkpoint.

    They are where a run that had them from its start would be after the epochs, or else the steps,
    of the checkpoint.

    Raises:
        UserError: The optimizer groups its parameters in another way.
    """
    _fast_forward(runner, checkpoint['meta'])
    _take_options(checkpoint['optimizer'], runner.optim_wrapper.state_dict())
    if isinstance(schedulers := runner.param_schedulers, dict):
        states = {name: [s.state_dict() for s in each] for name, each in schedulers.items()}
    else:
        states = [scheduler.state_dict() for scheduler in schedulers or []]
    checkpoint['param_schedulers'] = states


def _fast_forward(runner: Runner, meta: dict) -> None:
    """Step the schedulers as mmengine does while it trains."""
    hook, length = ParamSchedulerHook(), len(runner.train_dataloader)
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that no step of the optimizer came before
        for step in range(meta['iter']):
            hook.after_train_iter(runner, step)
            if by_epoch and (step + 1) % length == 0:
                hook.after_train_epoch(runner)


def _take_options(old: dict, new: dict) -> None:
    """Give the state of an optimizer, or of those of a GAN, the options of another."""
    if 'param_groups' not in new:
        for name in new:
            _take_options(old[name], new[name])
        return
    sizes = ([len(group['params']) for group in state['param_groups']] for state in (old, new))
    if len({tuple(each) for each in sizes}) > 1:
        raise UserError(
            '--resume cannot change how the optimizer groups parameters (paramwise_cfg)'
        )
    old.update({key: new[key] for key in OPTIONS if key in new})


@HOOKS.register_module()
class StopAtInvalidLossHook(Hook):
    """Ends a run whose loss or weights are infinite or NaN, before they are saved.

    Raises:
        UserError: It names the step, the losses, what is wrong in the batch or else its files, and
            the last good checkpoint.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Batch | None, outputs: dict | None
    ) -> None:
        """Look at the losses of a step."""
        scalars = {k: v for k, v in outputs.items() if torch.is_tensor(v) and v.numel() == 1}
        losses = {name: value.item() for name, value in scalars.items()}
        if not all(map(_is_finite, losses.values())):
            values = ', '.join(f'{name} {value:g}' for name, value in losses.items())
            raise UserError(
                f'step {runner.iter + 1}: the loss is not finite ({values}); '
                f'{last_good_checkpoint(runner)}; {_cause(micro_batches(data_batch or {}))}'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights that are about to be saved."""
        for name, value in checkpoint['state_dict'].items():
            if value.is_floating_point() and not value.isfinite().all():
                raise UserError(
                    f'step {runner.iter}: {name} is not finite; '
                    f'{last_good_checkpoint(runner)}; {HINT}'
                )


@HOOKS.register_module()
class PretrainedHook(Hook):
    """Pretrained weights load under their published names, into a net that they fit.

    A checkpoint that is resumed or tested has to fit whole. Of one that the config itself names a
    training takes whatever fits; mmengine logs what does not.

    Args:
        strict: Whether a training takes nothing but a checkpoint of its model, which may have
            other classes, as by `--load-from`.

    Raises:
        UserError: The weights are of another model, or the data preprocessor is not the one that
            they were trained with.
    """

    priority = 'VERY_HIGH'  # before hooks that copy the model or its weights

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict

    def before_run(self, runner: Runner) -> None:
        """Before any weights are loaded."""
        accept_published_names(runner.model)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Before what was read is given to the model."""
        model, source = unwrapped(runner), runner._load_from or runner.work_dir
        weights, trains = checkpoint['state_dict'], isinstance(runner._train_loop, BaseLoop)
        if isinstance(model, AdversarialModel) and not trains:
            weights = whole(weights, model, source)
        elif trains and self.strict and not runner._resume:
            weights = fit_but_for_classes(source, weights, model, runner.cfg)
        else:
            weights = check_fit(source, weights, model, not trains or runner._resume)
        checkpoint['state_dict'] = weights

    def before_train(self, runner: Runner) -> None:
        """A detector that is trained already is tested as it is."""
        check_preprocessing(unwrapped(runner))


def _is_finite(value: float) -> bool:
    return abs(value) < float('inf')


def _cause(batches: list[dict]) -> str:
    """The fault of a picture that explains the loss, or else the pictures that it is of."""
    if found := [fault for batch in batches for fault in faults(batch)]:
        return f'at fault: {listed(found)}'
    named = [file for batch in batches for file in files(batch)]
    return f'{HINT} (the batch: {listed(named)})' if named else HINT


def last_good_checkpoint(runner: Runner) -> str:
    """Where a run that went wrong can be taken up."""
    return f'last good checkpoint: {latest_checkpoint(runner.work_dir) or "none yet"}'
