"""Pools: which of the moments of a batch are averaged into the statistics of a norm.

A pool is called with the moments [N, C] of a batch and the layer that it works for, and returns
the statistics to normalise with, broadcastable to [N, C]. Autograd differentiates it, and its cost
does not grow with the images, which it never sees. What it learns or remembers it registers with
the layer in `prepare`; of the layer it may read `num_features`, `training`, `epsilon`, `running`
and `alpha`, and call `track`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from sbzoo.errors import UserError
from sbzoo.norm.moments import Moments, average, by_groups, split, uncentred
from sbzoo.norm.transforms import refuse_torch_func

TRUST = 0.99  # the share of batch norm in a mixture that gets its trained statistics


class Pool:
    """Statistics of each sample by itself, unless a subclass says otherwise."""

    uses_batch = False  # samples of a batch share statistics
    keeps_running = False  # there are running statistics
    trains_by_running = False  # the running statistics correct those of a batch in training
    spans_ranks = False  # in training every rank must take part, be its batch empty
    learns = False  # more than a weight and a bias
    activates = False  # the layer is an activation too
    folds = False  # in evaluation a constant scale and shift of each channel

    def prepare(self, layer: nn.Module) -> None:
        """Register what the pool learns or remembers with its layer."""

    def trust_running(self, layer: nn.Module) -> bool:
        """Start a mixture near the norm that keeps running statistics; whether it is one."""
        return False

    def is_of_single_maps(self, channels: int) -> bool:
        """Whether each statistic, of some of the channels at least, is of one map of one sample."""
        return False

    def is_of_single_channels(self, channels: int) -> bool:
        """Whether each statistic, in training, is of one channel of what is in the batch."""
        return self.is_of_single_maps(channels)

    def fixed(self, layer: nn.Module) -> Moments | None:
        """The statistics [1, C] where they do not depend on the images, so that none are taken."""
        return None

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        """The statistics to normalise with."""
        raise NotImplementedError


# Each sample by itself


@dataclass(frozen=True)
class Group(Pool):
    """Over groups of channels: group norm (Wu and He 2018, arXiv 1803.08494).

    One group is layer norm over C, H and W (Ba et al. 2016, arXiv 1607.06450), as many groups
    as channels are instance norm (Ulyanov et al. 2016, arXiv 1607.08022).
    """

    groups: int

    def is_of_single_maps(self, channels: int) -> bool:
        return self.groups == channels

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        return average(moments, dim=1) if self.groups == 1 else by_groups(moments, self.groups)


@dataclass(frozen=True)
class RootMeanSquare(Pool):
    """As layer norm, without centring (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def is_of_single_maps(self, channels: int) -> bool:
        return channels == 1

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        return uncentred(average(moments, dim=1))


@dataclass(frozen=True)
class FilterResponse(Pool):
    """Uncentred, each channel by itself, with a learned threshold in the place of a ReLU.

    FRN with TLU (Singh and Krishnan 2020, arXiv 1911.09737).
    """

    learns = activates = True

    def prepare(self, layer: nn.Module) -> None:
        layer.threshold = nn.Parameter(torch.zeros(layer.num_features))

    def is_of_single_maps(self, channels: int) -> bool:
        return True

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        return uncentred(moments)


@dataclass(frozen=True)
class EvoNormS0(Pool):
    """`x * sigmoid(gate * x)` over the deviation of its group (Liu et al. 2020, arXiv 2004.02967).

    It is a norm and an activation in one.
    """

    groups: int

    learns = activates = True

    def prepare(self, layer: nn.Module) -> None:
        layer.gate = nn.Parameter(torch.ones(layer.num_features))

    def is_of_single_maps(self, channels: int) -> bool:
        return self.groups == channels

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        mean, var, count = by_groups(moments, self.groups)
        return Moments(torch.zeros_like(mean), var, count)


# Batch statistics in training, running statistics in evaluation


@dataclass(frozen=True)
class Batch(Pool):
    """All samples together: batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167)."""

    uses_batch = True
    keeps_running = True
    folds = True

    def is_of_single_channels(self, channels: int) -> bool:
        return not self.spans_ranks

    def fixed(self, layer: nn.Module) -> Moments | None:
        return None if layer.training else layer.running

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        if not layer.training:
            return layer.running
        pooled = self.pool(moments)
        corrected = self.correct(pooled, layer)
        layer.track(pooled)
        return corrected

    def pool(self, moments: Moments) -> Moments:
        """Statistics of the batch."""
        return average(moments, dim=0)

    def correct(self, pooled: Moments, layer: nn.Module) -> Moments:
        """What is made of them before they are used."""
        return pooled


@dataclass(frozen=True)
class Frozen(Pool):
    """The running statistics of a pretrained batch norm in training too, and no affine to learn.

    Weight and bias are buffers, as torchvision's are: mmcv wants gradients of all parameters.
    """

    keeps_running = True
    folds = True

    def prepare(self, layer: nn.Module) -> None:
        for name in ('weight', 'bias') if layer.affine else ():
            value = layer._parameters.pop(name).detach()
            layer.register_buffer(name, value)

    def fixed(self, layer: nn.Module) -> Moments:
        return layer.running

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        return layer.running


@dataclass(frozen=True)
class Sync(Batch):
    """The samples of all ranks (Peng et al. 2018, arXiv 1711.07240), on any device.

    Ranks may have different numbers of samples and of pixels; none at all, too.
    """

    @property
    def spans_ranks(self) -> bool:
        """Whether there is more than one."""
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def pool(self, moments: Moments) -> Moments:
        if not self.spans_ranks:
            return average(moments, dim=0)
        refuse_torch_func("norm 'syncbn' over several ranks")
        samples, channels = moments.mean.shape
        if samples:
            mean, var, count = average(moments, dim=0)
        else:
            mean, var, count = *(t.sum(0, keepdim=True) for t in moments[:2]), 0
        row = torch.cat([mean, var, mean.new_full((1, 1), count)], dim=1)
        means, variances, counts = _gather(row).split([channels, channels, 1], dim=1)
        total = counts.sum()
        shares = counts / total.clamp(min=1)
        mean = (means * shares).sum(0, keepdim=True)
        spread = (variances + (means - mean).square()) * shares
        return Moments(mean, spread.sum(0, keepdim=True), round(total.item()))


def _gather(row: Tensor) -> Tensor:
    """The rows [1, D] of all ranks, [R, D]; one collective, and one more in backward."""
    before, after = dist.get_rank(), dist.get_world_size() - dist.get_rank() - 1
    return _AllReduce.apply(F.pad(row, (0, 0, before, after)))


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _AllReduce.apply(grad.contiguous())


@dataclass(frozen=True)
class Ghost(Batch):
    """Ghost batches of `samples` each (Hoffer et al. 2017, arXiv 1705.08741)."""

    samples: int

    def pool(self, moments: Moments) -> Moments:
        parts = split(moments, self.samples)
        ghosts = [average(part, dim=0) for part in parts]
        mean, var = (
            torch.cat([g[i].expand_as(p.mean) for g, p in zip(ghosts, parts, strict=True)])
            for i in range(2)
        )
        return Moments(mean, var, ghosts[0].count)


@dataclass(frozen=True)
class BatchGroup(Batch):
    """All samples and a group of channels together (Zhou et al. 2020, arXiv 2012.00982)."""

    groups: int

    def is_of_single_channels(self, channels: int) -> bool:
        return self.groups == channels

    def pool(self, moments: Moments) -> Moments:
        return by_groups(average(moments, dim=0), self.groups)


@dataclass(frozen=True)
class Renorm(Batch):
    """Batch statistics, corrected towards the running ones (Ioffe 2017, arXiv 1702.03275).

    The limits of the correction are the paper's: none for 5,000 steps, then r up to 3 by step
    40,000 and d up to 5 by step 25,000.
    """

    trains_by_running = True

    def correct(self, pooled: Moments, layer: nn.Module) -> Moments:
        step = layer.num_batches_tracked.to(pooled.mean.dtype)
        max_r = 1 + 2 * ((step - 5_000) / 35_000).clamp(0, 1)
        max_d = 5 * ((step - 5_000) / 20_000).clamp(0, 1)
        mean, var, _ = layer.running
        std, running_std = (pooled.var + layer.epsilon).sqrt(), (var + layer.epsilon).sqrt()
        r = (std.detach() / running_std).clamp(1 / max_r, max_r)
        d = ((pooled.mean.detach() - mean) / running_std).clamp(-max_d, max_d)
        std = std / r
        return Moments(pooled.mean - d * std, std.square() - layer.epsilon, pooled.count)


@dataclass(frozen=True)
class Running(Pool):
    """The running statistics, beside the norm that keeps them: `hybrid(bn,running)`.

    Batch norm with a learned share of the population, as the hybrid batch normalisation of
    arXiv 2505.21877 has it.
    """

    uses_batch = trains_by_running = True
    folds = True

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        mean, var, count = layer.running
        return Moments(mean.clone(), var.clone(), count)  # the next batch moves them in place


@dataclass(frozen=True)
class MovingAverage(Batch):
    """Averages over the last steps, forward and backward (Yan et al. 2020, arXiv 2001.06838).

    What is averaged is the second moment of each channel, uncentred (so that weight
    standardisation belongs to it), and the gradient of the loss by it. For the first `warm_up`
    steps both are the batch's own.
    """

    STEPS, WARM_UP, MAX_R = 16, 100, 1.05
    trains_by_running = True

    def prepare(self, layer: nn.Module) -> None:
        shape = self.STEPS, layer.num_features
        layer.register_buffer('past_moments', torch.ones(shape))
        layer.register_buffer('past_gradients', torch.zeros(shape))

    def pool(self, moments: Moments) -> Moments:
        return uncentred(average(moments, dim=0))

    def correct(self, pooled: Moments, layer: nn.Module) -> Moments:
        refuse_torch_func("the averages over steps of norm 'mabn'")
        if torch.jit.is_tracing():
            raise UserError('mabn: its gradient is not traced in training; call eval() first')
        moment = _AveragedOverSteps.apply(pooled.var, layer)
        r = (moment.detach() / layer.running.var).sqrt().clamp(1 / self.MAX_R, self.MAX_R)
        var = torch.where(_is_warm(layer), moment / r.square(), moment)
        return Moments(pooled.mean, var, pooled.count)


class _AveragedOverSteps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, moment: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        return _push(layer.past_moments, moment, layer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _push(ctx.layer.past_gradients, grad, ctx.layer), None


def _push(past: Tensor, newest: Tensor, layer: nn.Module) -> Tensor:
    """Remember the newest value [1, C] and return the average, or itself before warm-up ends."""
    past.copy_(torch.cat([past[1:], newest.to(past.dtype)]))
    return torch.where(_is_warm(layer), past.mean(0, keepdim=True).to(newest.dtype), newest)


def _is_warm(layer: nn.Module) -> Tensor:
    return layer.num_batches_tracked >= MovingAverage.WARM_UP


# Mixtures


def _either(trait: str) -> property:
    """Whether one part of a mix or the other has a trait of pools."""
    return property(lambda mix: getattr(mix.first, trait) or getattr(mix.second, trait))


@dataclass(frozen=True)
class Mix(Pool):
    """A fraction alpha of the mean and of the variance from `first`, the rest from `second`."""

    first: Pool
    second: Pool
    per_channel: bool = False

    learns = True
    uses_batch = _either('uses_batch')
    keeps_running = _either('keeps_running')
    trains_by_running = _either('trains_by_running')
    spans_ranks = _either('spans_ranks')

    def prepare(self, layer: nn.Module) -> None:
        self.first.prepare(layer)
        self.second.prepare(layer)
        size = layer.num_features if self.per_channel else 1  # FSDP2 shards no scalars
        layer.alpha_logit = nn.Parameter(torch.zeros(size))

    def trust_running(self, layer: nn.Module) -> bool:
        side = self.first.folds - self.second.folds  # 0 if both evaluate as batch norm, or neither
        nn.init.constant_(layer.alpha_logit, side * log(TRUST / (1 - TRUST)))
        return side != 0

    def is_of_single_maps(self, channels: int) -> bool:
        return all(part.is_of_single_maps(channels) for part in (self.first, self.second))

    def is_of_single_channels(self, channels: int) -> bool:
        return all(part.is_of_single_channels(channels) for part in (self.first, self.second))

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        first, second = self.first(moments, layer), self.second(moments, layer)
        alpha = layer.alpha
        mean = second.mean.lerp(first.mean, alpha)
        return Moments(mean, second.var.lerp(first.var, alpha), moments.count)


@dataclass(frozen=True)
class Switch(Pool):
    """Learned weights of instance, layer and batch norm (Luo et al. 2018, arXiv 1806.10779)."""

    learns = True
    uses_batch = True
    keeps_running = True

    def prepare(self, layer: nn.Module) -> None:
        layer.mean_logits = nn.Parameter(torch.zeros(3))
        layer.var_logits = nn.Parameter(torch.zeros(3))

    def trust_running(self, layer: nn.Module) -> bool:
        for logits in (layer.mean_logits, layer.var_logits):
            nn.init.zeros_(logits)
            nn.init.constant_(logits[-1], log(2 * TRUST / (1 - TRUST)))  # two others share the rest
        return True

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        pooled = moments, average(moments, dim=1), Batch()(moments, layer)
        mean = sum(w * t.mean for w, t in zip(layer.mean_logits.softmax(0), pooled, strict=True))
        var = sum(w * t.var for w, t in zip(layer.var_logits.softmax(0), pooled, strict=True))
        return Moments(mean, var, moments.count)


@dataclass(frozen=True)
class InstanceBatch(Pool):
    """Instance norm for the first half of the channels, batch norm for the rest.

    The norm of IBN-Net (Pan et al. 2018, arXiv 1807.09441).
    """

    uses_batch = True
    keeps_running = True

    def is_of_single_maps(self, channels: int) -> bool:
        return channels > 1  # there is a first half

    def __call__(self, moments: Moments, layer: nn.Module) -> Moments:
        batch, half = Batch()(moments, layer), layer.num_features // 2
        mean, var = (
            torch.cat([own[:, :half], shared.expand_as(own)[:, half:]], dim=1)
            for own, shared in zip(moments[:2], batch[:2], strict=True)
        )
        return Moments(mean, var, moments.count)
