"""How small a batch may be: the gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162).

The gradient of a batch of B images is the true gradient G and noise of covariance Sigma / B. At
B = tr(Sigma) / |G|^2, the simple noise scale, both are of one size: a smaller batch makes as much
progress per image, a much larger one pays for images that hardly change the step.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, dataclass

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from sbzoo.engine.runner import micro_batches, random_state_kept, unwrapped
from sbzoo.errors import UserError

INFO = 'noise_scale'  # the name in mmengine's message hub, which checkpoints keep


def signal_and_noise(
    small: float,  # mean of the squared norms of gradients of `b_small` images
    big: float,  # and of `b_big` images
    b_small: int,
    b_big: int,
) -> tuple[float, float]:
    """Unbiased estimates of |G|^2 and tr(Sigma), by E|g_B|^2 = |G|^2 + tr(Sigma) / B."""
    signal = (b_big * big - b_small * small) / (b_big - b_small)
    noise = (small - big) / (1 / b_small - 1 / b_big)
    return signal, noise


@dataclass
class NoiseScale:
    """Exponential moving averages of |G|^2 and of tr(Sigma), and their ratio.

    Each is averaged by itself, because a ratio of single estimates is biased and may be negative.
    """

    decay: float = 0.9
    measured: int = 0
    signal_sum: float = 0.0
    noise_sum: float = 0.0

    def update(self, signal: float, noise: float) -> None:
        """Take in one pair of estimates."""
        self.measured += 1
        self.signal_sum += (1 - self.decay) * (signal - self.signal_sum)
        self.noise_sum += (1 - self.decay) * (noise - self.noise_sum)

    @property
    def signal(self) -> float:
        """The average of |G|^2, corrected for its start at 0."""
        return self.signal_sum / (1 - self.decay**self.measured)

    @property
    def noise(self) -> float:
        """The average of tr(Sigma), corrected for its start at 0."""
        return self.noise_sum / (1 - self.decay**self.measured)

    @property
    def images(self) -> float | None:
        """The noise scale, in images; None as long as |G|^2 cannot be told from zero."""
        return self.noise / self.signal if self.measured and self.signal > 0 else None


def summary(hub: MessageHub) -> dict[str, float | int | None] | None:
    """What was measured, in the state that it is in; None if nothing was."""
    state = hub.get_info(INFO)
    if state is None:
        return None
    scale = NoiseScale(**state)
    found = dict(images=scale.images, signal=scale.signal, noise=scale.noise)
    rounded = {name: value and float(f'{value:.4g}') for name, value in found.items()}
    return dict(**rounded, measurements=scale.measured)


def explain(hub: MessageHub) -> str | None:
    """The noise scale in words, for whoever chooses a batch; None if it was not measured."""
    found = summary(hub)
    if found is None:
        return None
    count = f'measurements: {found["measurements"]}'
    if found['images'] is None:
        return f'no limit found to the batch size that pays ({count})'
    images = float(f'{found["images"]:.2g}')
    return f'larger batches stop paying at about batch size {images:g} ({count})'


@HOOKS.register_module()
class GradientNoiseScaleHook(Hook):
    """Measures the gradient noise scale while a model trains, as `noise_scale` in its log.

    Now and then it copies the model and takes, at the weights of the copy, the gradients of the
    next few batches of the training. Their mean squared norm and the squared norm of their mean are
    the two batch sizes that the estimate needs. (The gradients that the training itself takes would
    cost nothing, but every step moves the weights against its own noise: successive gradients
    cancel by lr tr(H Sigma) / B, in a settled training as much as |G|^2 itself.)

    They are batches of the training, not single images, because batch statistics, and losses that
    are divided by the objects of a batch, depend on its size: what is measured is the network as
    it trains. Accumulation and the number of devices change nothing, weight decay is left out.

    Nothing of the training is disturbed: it sees the same batches, random numbers, weights and
    running statistics as without the hook. A resumed run goes on with the averages of its
    checkpoint; a measurement that the end of an epoch cuts short is dropped, so that no checkpoint
    falls into one. Several devices measure one scale together.

    Args:
        interval: Steps from the start of a measurement to that of the next. None starts at step 0,
            as the large gradients of random weights would dominate the averages.
        batches: Batches of a measurement, on each device. They cost about `batches / interval` of
            the time of the training and, while it lasts, three more copies of the weights.
        decay: Of the moving averages, for each measurement. At 0.9 they hold about the last ten, so
            they trail: while |G|^2 falls fast, as at the end of an annealed learning rate, the
            scale of the moment is higher than the one shown.

    Raises:
        UserError: Fewer than 2 batches have no spread, and more than the interval never end.
    """

    def __init__(self, interval: int = 200, batches: int = 8, decay: float = 0.9) -> None:
        if batches < 2:
            raise UserError(f'GradientNoiseScaleHook: batches={batches}; give 2 or more')
        if interval < batches:
            raise UserError(
                f'GradientNoiseScaleHook: a measurement takes {batches} steps, and the next begins '
                f'after {interval}; give {batches} or more (--noise-scale {batches})'
            )
        self.interval = interval
        self.batches = batches
        self.decay = decay
        self.recorder: GradientRecorder | None = None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | list[dict] | None = None
    ) -> None:
        """Start a measurement, or take the next batch of it: of an accumulation, the first."""
        if runner.iter and runner.iter % self.interval == 0:
            model = unwrapped(runner)
            self.recorder = GradientRecorder(deepcopy(model), runner.optim_wrapper)
        if self.recorder is None:
            return
        with random_state_kept():
            self.recorder.take(deepcopy(micro_batches(data_batch)[0]))
        if self.recorder.count == self.batches:
            self._log(runner, *self.recorder.squared_norms())
            self.recorder = None

    def _log(self, runner: Runner, small: float, big: float) -> None:
        images = runner.train_dataloader.batch_sampler.batch_size
        batches = self.batches * get_world_size()
        if not math.isfinite(small):  # the loss scale of mixed precision is too high just now
            return
        scale = NoiseScale(**runner.message_hub.get_info(INFO, dict(decay=self.decay)))
        scale.update(*signal_and_noise(small, big, images, images * batches))
        runner.message_hub.update_info(INFO, asdict(scale))
        if scale.images is not None:
            runner.message_hub.update_scalar('train/noise_scale', scale.images)

    def after_train_epoch(self, runner: Runner) -> None:
        """Drop what is not complete."""
        self.recorder = None

    def after_train(self, runner: Runner) -> None:
        """Say so if there was no time to measure."""
        if runner.message_hub.get_info(INFO) is None:
            runner.logger.warning(
                f'noise scale: not measured, as that takes {self.batches} steps of one epoch '
                f'after every {self.interval}'
            )


class GradientRecorder:
    """Stands in for the optimizer wrapper of a model: adds gradients up and updates nothing.

    Args:
        model: A copy, as its gradients and running statistics change.
        wrapper: The optimizer wrapper of the training, for its precision.
    """

    def __init__(self, model: nn.Module, wrapper: OptimWrapper) -> None:
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optim_context = wrapper.optim_context
        amp = isinstance(wrapper, AmpOptimWrapper)
        self.loss_scale = wrapper.loss_scaler.get_scale() if amp else 1.0
        self.count = 0
        self.squares = self.parameters[0].new_zeros(())
        self.total = self.squares.new_zeros(sum(p.numel() for p in self.parameters))

    def take(self, batch: dict) -> None:
        """Add the gradient of a batch."""
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        self.model.train_step(batch, optim_wrapper=self)

    def update_params(self, loss: Tensor) -> None:
        """What a `train_step` calls with its loss."""
        (loss * self.loss_scale).backward()
        gradient = torch.cat([p.grad.flatten() for p in self.parameters]).div_(self.loss_scale)
        self.total += gradient
        self.squares += gradient.square().sum()
        self.count += 1

    def squared_norms(self) -> tuple[float, float]:
        """Mean squared norm of the gradients, squared norm of their mean; over all devices."""
        mean, squares = self.total / self.count, self.squares / self.count
        all_reduce(mean, 'mean')
        all_reduce(squares, 'mean')
        return squares.item(), mean.square().sum().item()
