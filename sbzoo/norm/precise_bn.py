"""Precise BN: running statistics of batch norms over many batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbzoo.norm.layers import Norm
from sbzoo.norm.moments import Moments, wide
from sbzoo.norm.padding import crops
from sbzoo.norm.running_statistics import RunningStatistics

Forward = Callable[[nn.Module, Any], object]  # runs a model on a batch; its result is not used


class RunningMoments:
    """Mean and biased variance per channel of everything that was added, in float64 on the CPU."""

    def __init__(self) -> None:
        self.count = 0  # pixels of all samples
        self.mean = self.var = torch.zeros((), dtype=torch.float64)  # [C] once anything is added

    def add(self, x: Tensor) -> None:
        """Add features [N, C, ...]."""
        var, mean = torch.var_mean(wide(x), [0, *range(2, x.ndim)], correction=0)
        count = x.numel() // x.shape[1]
        self._merge(count, mean.to('cpu', torch.float64), var.to('cpu', torch.float64))

    def add_pictures(self, norm: nn.Module, x: Tensor) -> None:
        """Add what in features [N, C, H, W] is picture to a norm."""
        for part in parts_of(norm, x):
            self.add(part)

    def _merge(self, count: int, mean: Tensor, var: Tensor) -> None:
        """The law of total variance for two parts, in its centred form."""
        if not count:
            return
        share = count / (self.count + count)
        delta = mean - self.mean
        self.mean = self.mean + delta * share
        self.var = self.var + (var - self.var) * share + delta.square() * share * (1 - share)
        self.count += count

    def gather(self) -> None:
        """Merge with those of the other processes of a distributed run."""
        parts: list = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (self.count, self.mean, self.var))
        self.__init__()
        for part in parts:  # in the order of the ranks, so that all get the same bits
            self._merge(*part)


def tracks_running(norm: nn.Module) -> bool:
    """Whether a norm takes statistics over samples in training and stored ones in evaluation."""
    if isinstance(norm, RunningStatistics):
        return False  # those of a norm that is there too
    uses_batch = norm.pool.uses_batch if isinstance(norm, Norm) else isinstance(norm, _BatchNorm)
    return uses_batch and norm.running_mean is not None


def set_running(norm: nn.Module, inputs: RunningMoments) -> None:
    """Make a norm evaluate with the statistics of `inputs`, the variance unbiased."""
    if isinstance(norm, Norm):
        _track(norm, inputs)
        return
    norm.running_mean.copy_(inputs.mean)
    norm.running_var.copy_(inputs.var * (inputs.count / max(inputs.count - 1, 1)))


def _track(norm: Norm, inputs: RunningMoments) -> None:
    """Let the pool itself say what it keeps of moments: one step with all the momentum."""
    mean, var = (t[None].to(norm.running.mean) for t in (inputs.mean, inputs.var))
    share = 1 / dist.get_world_size() if norm.pool.spans_ranks else 1  # each has all of them
    before = norm.momentum, norm.training
    with buffers_kept([b for name, b in norm.named_buffers() if not name.startswith('running_')]):
        norm.momentum, norm.training = 1.0, True
        norm.statistics(Moments(mean, var, inputs.count * share))
    norm.momentum, norm.training = before


@contextmanager
def buffers_kept(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Steps that are counted and averaged inside are not part of the training."""
    buffers = list(buffers)
    values = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)


@torch.no_grad()
def reestimate(
    model: nn.Module, batches: Iterable, forward: Forward = nn.Module.__call__
) -> list[str]:
    """Give batch norms the statistics that their inputs have over all of `batches`.

    Precise BN (Wu and Johnson 2021, arXiv 2105.07576): the running statistics of training are
    those of the newest few batches, seen with weights that have moved since. Here the weights
    stand still, each batch is normalised by its own statistics as in training, and the moments
    of the batches are pooled by the law of total variance. (`torch.optim.swa_utils.update_bn`
    averages the variances within batches and so leaves out the variance between them.)

    Training goes on as if nothing had been run. So batch renormalisation and moving average batch
    norm (`brn`, `mabn`) keep their statistics: they correct the batch by them in training too.
    Norms in evaluation mode, such as MMDetection's `norm_eval` makes, keep theirs as well; if all
    are, that is warned of.
    In a distributed run each process gives as many batches of its own, and all end with the same
    statistics.

    Args:
        model: In training mode, and on the device of the batches.
        batches: Batches of the size that the model is trained with; a thousand images are plenty.
        forward: Runs the model on a batch; `model(batch)` unless told.

    Returns:
        The names of the norms that were set.

    Example:
        The statistics over unequal batches are those of all images:

        >>> model, x = nn.Sequential(nn.BatchNorm2d(3)), torch.randn(6, 3, 4, 4)
        >>> reestimate(model, x.split([1, 2, 3]))
        ['0']
        >>> torch.allclose(model[0].running_var, x.var((0, 2, 3)))
        True
    """
    found = {n: m for n, m in model.named_modules() if tracks_running(m)}
    tracking = {n: m for n, m in found.items() if m.training}
    if found and not tracking:
        warnings.warn(
            f'reestimate: all {len(found)} norms with running statistics are in evaluation mode '
            'and keep them; call model.train() before',
            stacklevel=3,  # outside of no_grad
        )
    norms = {
        name: norm
        for name, norm in tracking.items()
        if not (isinstance(norm, Norm) and norm.pool.trains_by_running)
    }
    if not norms:
        return []
    inputs = {name: RunningMoments() for name in norms}
    buffers = [buffer for norm in tracking.values() for buffer in norm.buffers()]
    with buffers_kept(buffers), ExitStack() as hooks:
        for name, norm in norms.items():
            hook = partial(_add_input, inputs[name])
            hooks.enter_context(norm.register_forward_pre_hook(hook))
        for batch in batches:
            forward(model, batch)
    if dist.is_available() and dist.is_initialized():
        for moments in inputs.values():
            moments.gather()
    ran = [name for name in norms if inputs[name].count]
    for name in ran:
        set_running(norms[name], inputs[name])
    return ran


def parts_of(norm: nn.Module, x: Tensor) -> list[Tensor]:
    """What in x [N, C, H, W] is picture to a norm, [1, C, height, width] each; or x as a whole."""
    pictures = norm.pictures_in(x) if isinstance(norm, Norm) else None
    return crops(x, pictures.on(x)) if pictures else [x]


def _add_input(inputs: RunningMoments, norm: nn.Module, args: tuple) -> None:
    inputs.add_pictures(norm, args[0])
