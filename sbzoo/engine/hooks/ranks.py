"""What is saved and evaluated on several ranks is one model, that of one process."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmengine.dist import all_reduce_params, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner.checkpoint import get_state_dict, weights_to_cpu
from torch import Tensor, nn

from sbzoo.engine.runner import unwrapped


@HOOKS.register_module()
class RanksHook(Hook):
    """Makes what several ranks train one model wherever it is evaluated or saved.

    Running statistics, of which each rank has those of its own images, become their mean at the end
    of each epoch, and before a validation or a checkpoint between two; keys of checkpoints are
    those of a model that is not wrapped. One rank alone is left as it is.
    """

    priority = 'VERY_HIGH'  # before hooks that save or copy the model

    def __init__(self) -> None:
        self.synchronized_at = -1  # iteration

    def after_train_epoch(self, runner: Runner) -> None:
        """Its checkpoint and validation come next."""
        self._synchronize(runner, runner.iter)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Where iterations are counted, before a checkpoint."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop) and _is_saved_now(self, runner):
            self._synchronize(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Of a validation between two checkpoints."""
        self._synchronize(runner, runner.iter)

    def _synchronize(self, runner: Runner, iteration: int) -> None:
        """Once at an iteration, as the mean of three equal numbers need not be that number."""
        if get_world_size() > 1 and self.synchronized_at != iteration:
            self.synchronized_at = iteration
            average_over_ranks(*_models(runner))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Without the wrappers, which a GAN has inside."""
        if get_world_size() > 1:
            checkpoint['state_dict'] = weights_to_cpu(get_state_dict(unwrapped(runner)))


def average_over_ranks(*models: nn.Module) -> None:
    """Give the norms of all ranks the mean of their running statistics, and the longest count."""
    statistics = [buffer for model in models for buffer in running_statistics(model)]
    all_reduce_params([s for s in statistics if s.is_floating_point()], op='mean')
    all_reduce_params([s for s in statistics if not s.is_floating_point()], op='max')


def running_statistics(model: nn.Module) -> Iterator[Tensor]:
    """The buffers of batch norms and their kin, whichever library they are of."""
    for module in model.modules():
        if isinstance(getattr(module, 'running_var', None), torch.Tensor):
            yield from module.buffers(recurse=False)


def _models(runner: Runner) -> list[nn.Module]:
    """The model, and its moving average if there is one."""
    averages = (getattr(hook, 'ema_model', None) for hook in runner.hooks)
    return [unwrapped(runner), *(model for model in averages if model is not None)]


def _is_saved_now(own: Hook, runner: Runner) -> bool:
    savers = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    return any(
        own.every_n_train_iters(runner, saver.interval, saver.save_begin)
        or (saver.save_last and own.is_last_train_iter(runner))
        for saver in savers
        if not saver.by_epoch
    )
