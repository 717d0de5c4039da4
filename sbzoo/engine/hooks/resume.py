"""Hooks that make a run exact to resume and stop it before it wastes time."""

from __future__ import annotations

import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner, set_random_seed

from sbzoo.checkpoint.io import check_fit
from sbzoo.checkpoint.resolve import latest_checkpoint
from sbzoo.detection.preprocessing import check_preprocessing
from sbzoo.engine.batch_faults import faults, files, listed
from sbzoo.engine.model import whole
from sbzoo.engine.runner import unwrapped
from sbzoo.errors import UserError
from sbzoo.gan.models.base import AdversarialModel
from sbzoo.norm.key_names import accept_published_names

HINT = 'try a lower --lr or a longer warm-up'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes every epoch depend on nothing that a checkpoint does not keep.

    So a run that was stopped and resumed goes on as if it had never been stopped: random numbers
    depend on seed, rank and epoch alone, and no gradient is left over from the epoch before. Exact
    with `num_workers=0`, or with workers that are started anew each epoch.
    """

    def before_train(self, runner: Runner) -> None:
        """Let torch seed the workers, from the numbers of the epoch; mmengine's start alike."""
        loader = runner.train_dataloader
        if getattr(loader.worker_init_fn, 'func', None) is worker_init_fn:
            loader.worker_init_fn = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch, and let the last step of an accumulation end the epoch."""
        set_random_seed(runner.seed + 1_000_003 * runner.epoch + get_rank())
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            _count_steps(runner)


def _count_steps(runner: Runner) -> None:
    """Tell each optimizer its steps in this epoch, so that it leaves no batch without an update."""
    model, start = unwrapped(runner), runner.iter
    stop = start + len(runner.train_dataloader)
    if not isinstance(model, AdversarialModel):
        runner.optim_wrapper.initialize_count_status(model, 0, stop - start)
        return
    for name, wrapper in runner.optim_wrapper.items():
        steps = model.steps(name, start, stop)
        wrapper.initialize_count_status(model.networks()[name], 0, steps)


@HOOKS.register_module()
class StopAtInvalidLossHook(Hook):
    """Ends a run whose loss or weights are infinite or NaN, before they are saved.

    Raises:
        UserError: It names the step, the losses, what is wrong in the batch or else its files, and
            the last good checkpoint.
    """

    priority = 'VERY_HIGH'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None, outputs: dict | None
    ) -> None:
        """Look at the losses of a step."""
        scalars = {k: v for k, v in outputs.items() if torch.is_tensor(v) and v.numel() == 1}
        losses = {name: value.item() for name, value in scalars.items()}
        if not all(map(_is_finite, losses.values())):
            values = ', '.join(f'{name} {value:g}' for name, value in losses.items())
            raise UserError(
                f'step {runner.iter + 1}: the loss is not finite ({values}); '
                f'{last_good_checkpoint(runner)}; {_cause(data_batch or {})}'
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

    A checkpoint that is resumed or tested has to fit whole. One that a training starts from may be
    of other classes, say, if the config itself names it; mmengine logs what does not fit.

    Args:
        strict: Whether a training, too, starts from weights that fit whole, as by `--load-from`.

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
            checkpoint['state_dict'] = whole(weights, model, source)
        else:
            strict = not trains or self.strict or runner._resume
            checkpoint['state_dict'] = check_fit(source, weights, model, strict)

    def before_train(self, runner: Runner) -> None:
        """A detector that is trained already is tested as it is."""
        check_preprocessing(unwrapped(runner))


def _is_finite(value: float) -> bool:
    return abs(value) < float('inf')


def _cause(batch: dict) -> str:
    """The fault of a picture that explains the loss, or else the pictures that it is of."""
    if found := faults(batch):
        return f'at fault: {listed(found)}'
    named = f' (the batch: {listed(files(batch))})' if files(batch) else ''
    return f'{HINT}{named}'


def last_good_checkpoint(runner: Runner) -> str:
    """Where a run that went wrong can be taken up."""
    return f'last good checkpoint: {latest_checkpoint(runner.work_dir) or "none yet"}'
