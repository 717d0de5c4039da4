"""The normalization layer: moments -> pool -> affine."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from sbzoo.errors import UserError
from sbzoo.norm import traced
from sbzoo.norm.kernels.group_relu import group_norm_relu
from sbzoo.norm.kernels.native import memory_format
from sbzoo.norm.moments import Moments, along_channels, wide
from sbzoo.norm.normalize import normalize, normalize_fixed
from sbzoo.norm.padding import Pictures, Size, crops, without_padding
from sbzoo.norm.pools import TRUST, EvoNormS0, FilterResponse, Group, Mix
from sbzoo.norm.running_statistics import RunningStatistics
from sbzoo.norm.spec import parse, say_once, split_spec
from sbzoo.norm.transforms import in_plain_torch, is_traced, refuse_torch_func
from sbzoo.norm.unfoldable import UnfoldableEps

NEAR = f'starts at {TRUST} of its trained batch norm'
_LARGE = 2**22  # elements, from where memory traffic is all that counts
_SMALL = 2**18  # elements, up to where calls cost more than pixels


class Norm(nn.InstanceNorm2d):
    """Normalises maps [N, C, *] by the statistics that a spec names.

    Images [N, C, H, W], mostly; vectors [N, C], sequences [N, C, L] and volumes [N, C, D, H, W]
    are seen as images of as many pixels.

    The base class is what mmcv's `is_norm` and the weight-decay exemptions (mmengine's,
    ultralytics') look for, and what convolution fusing and SyncBN conversion leave alone.
    `norm_eval` does not reach it: a norm that keeps running statistics goes on learning them,
    unless it is frozen batch norm (`fbn`).

    Args:
        num_features: Channels C.
        spec: Which norm; see `sbzoo.norm.NORMS`.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics; None for their average
            over all batches, as in torch.
        affine: Whether to learn a weight and a bias per channel.
        relu: Whether a ReLU follows, in the same pass over the pixels.
        count_padding: Whether the padding of a batch counts as picture, as it does in published
            networks; else statistics leave it out and it becomes zero. See `sbzoo.norm.padding`.

    Raises:
        UserError: Unknown spec, or what the norm of the spec does not take.

    Example:
        A group for each channel is instance norm, one group is layer norm, a ghost batch of all
        samples is the batch, and a hybrid has its parts at its ends:

        >>> def same(one: nn.Module, other: nn.Module) -> bool:
        ...     return torch.allclose(one(x), other(x), atol=1e-5)
        >>> x = torch.randn(4, 8, 5, 5)
        >>> same(Norm(8, 'gn8'), Norm(8, 'in')), same(Norm(8, 'gn1'), Norm(8, 'ln'))
        (True, True)
        >>> same(Norm(8, 'ghost4'), Norm(8, 'bn')), same(Norm(8, 'ghost1'), Norm(8, 'in'))
        (True, True)
        >>> hybrid = Norm(8, 'hybrid(bn,ln)')
        >>> for alpha_logit, end in ((100, 'bn'), (-100, 'ln')):
        ...     _ = nn.init.constant_(hybrid.alpha_logit, alpha_logit)
        ...     print(f'alpha = {hybrid.alpha:.0f}:', same(hybrid, Norm(8, end)))
        alpha = 1: True
        alpha = 0: True
    """

    running_statistics: RunningStatistics | None = None
    _abbr_ = 'bn'  # mmcv names the layer, and so its keys, as in batch norm checkpoints

    def __init__(
        self,
        num_features: int,
        spec: str = 'gn',
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        relu: bool = False,
        count_padding: bool = False,
    ) -> None:
        pool, (plain, _) = parse(spec, num_features), split_spec(spec)
        if pool.activates and not affine:
            raise UserError(f'{plain}: a norm and activation in one needs affine=True')
        if pool.activates and relu:
            raise UserError(f'{plain}, relu=True: it is an activation already; relu=False')
        super().__init__(num_features, eps, momentum, affine, pool.keeps_running)
        self.spec, self.pool, self.relu = plain, pool, relu
        self.count_padding = count_padding
        self.pictures: Pictures | None = None
        if pool.uses_batch and pool.keeps_running and not pool.trains_by_running:
            vars(self)['running_statistics'] = RunningStatistics(self)  # and no child
        pool.prepare(self)

    @property
    def folds(self) -> bool:
        """Whether, in evaluation, it is what batch norm is: its running statistics and affine."""
        return self.pool.folds and not self.relu and not hasattr(self, 'act')

    @property
    def eps(self) -> float:
        """The epsilon, for other libraries; what would fold it wrongly cannot add it."""
        is_mistakable = self.running_var is not None and not self.folds
        return UnfoldableEps(self.epsilon, self.spec) if is_mistakable else self.epsilon

    @eps.setter
    def eps(self, eps: float) -> None:
        self.epsilon = float(eps)

    @property
    def is_hybrid(self) -> bool:
        """Whether it learns an alpha."""
        return isinstance(self.pool, Mix)

    @property
    def alpha(self) -> Tensor:
        """The fraction in (0, 1) of the first norm of a hybrid, a scalar or [C]."""
        return wide(self.alpha_logit).squeeze().sigmoid()

    def named_modules(
        self, memo: set | None = None, prefix: str = '', remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Itself, and the view of its running statistics if it takes them of batches."""
        memo = set() if memo is None else memo
        yield from super().named_modules(memo, prefix, remove_duplicate)
        if self.running_statistics is not None:
            name = f'{prefix}.running_statistics' if prefix else 'running_statistics'
            yield from self.running_statistics.named_modules(memo, name, remove_duplicate)

    @property
    def running(self) -> Moments:
        """The running statistics, [1, C]."""
        return Moments(wide(self.running_mean)[None], wide(self.running_var)[None], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, *]: moments -> pool -> affine.

        Raises:
            UserError: Not such maps, or statistics are of single values: instance norm of 1x1
                maps, say.
        """
        if isinstance(x, Proxy):
            return self._traced_around(x)
        self._check(x)
        if x.ndim == 4:
            return self._normalize(x, self.pictures_in(x))
        return self._normalize(as_images(x)).view(x.shape)

    def _traced_around(self, x: Proxy) -> Proxy:
        """A call of this layer in a graph of torch.fx, as of the layers of torch."""
        name = x.tracer.path_of_module(self)
        if not name:
            raise UserError(
                f'norm {self.spec!r}: torch.fx traces models of norms, not one by itself'
            )
        return x.tracer.create_proxy('call_module', name, (x,), {})

    def _normalize(self, x: Tensor, pictures: Pictures | None = None) -> Tensor:
        """Normalise images x [N, C, H, W]."""
        if not x.shape[0] and not (self.training and self.pool.spans_ranks):
            return self._nothing(x)
        if is_traced() and not (self.training or pictures or self.pool.activates):
            return traced.evaluate(x, self)
        fixed = self.pool.fixed(self)
        affine = self.weight, self.bias, self.relu, pictures
        if fixed is not None:
            return normalize_fixed(x, fixed, self.epsilon, *affine)
        if isinstance(self.pool, Group) and not self._is_narrow(x):
            if pictures is None:
                return self._group_norm(x)
            if x.numel() <= _SMALL and not in_plain_torch():
                return self._group_norm_of(pictures.on(x), x)
        if isinstance(self.pool, FilterResponse):
            return self._filter_response_norm(x, pictures)
        if isinstance(self.pool, EvoNormS0):
            return self._evonorm(x, pictures)
        return normalize(x, self.statistics, self.epsilon, *affine)

    def pictures_in(self, x: Tensor) -> Pictures | None:
        """What in maps x [N, C, *] is picture; None if all is, or counts as it."""
        padded = self.pictures is not None and not self.count_padding and x.ndim == 4
        return self.pictures if padded and self.pictures.are_in(x) else None

    def statistics(self, moments: Moments) -> Moments:
        """What the pool makes of the moments [N, C] of images."""
        return self.pool(moments, self)

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise UserError(
                f'norm {self.spec!r} of {list(x.shape)}: it is for [N, {self.num_features}, *], '
                'vectors, sequences, images or volumes'
            )
        if not x.shape[0] or x.shape[2:].numel() != 1:
            return
        if self.pool.is_of_single_maps(self.num_features):
            raise UserError(
                f'norm {self.spec!r} of {list(x.shape)}: a statistic of a single value leaves '
                'nothing of it, or but its sign; on vectors and 1x1 maps take a norm that pools '
                'channels (ln, gn with fewer groups) or no norm'
            )
        is_one_vector = self.training and x.ndim == 2 and x.shape[0] == 1
        if is_one_vector and self.pool.is_of_single_channels(self.num_features):
            raise UserError(
                f'norm {self.spec!r} of {list(x.shape)} in training: a batch of one vector has no '
                'variance; give it several, or take a norm that pools channels (ln, gn)'
            )

    def _nothing(self, x: Tensor) -> Tensor:
        """An empty batch like x, with a gradient of zero for each parameter: DDP waits for one."""
        return x * sum(p.sum() for p in self.parameters(recurse=False))

    def _is_narrow(self, x: Tensor) -> bool:
        """Whether groups are too narrow for torch's kernel, in channels_last."""
        narrow = self.num_features < 4 * self.pool.groups
        return narrow and memory_format(x) is torch.channels_last

    def _group_norm(self, x: Tensor) -> Tensor:
        """By torch's kernel."""
        arguments = x, self.pool.groups, self.weight, self.bias, self.epsilon
        large = not x.is_cuda and not in_plain_torch() and x.numel() > _LARGE
        if self.relu and large:
            return group_norm_relu(*arguments)
        y = F.group_norm(*arguments)
        return y.relu_() if self.relu else y

    def _group_norm_of(self, sizes: list[Size], x: Tensor) -> Tensor:
        """Picture by picture."""
        height, width = x.shape[2:]
        normed = [self._group_norm(picture) for picture in crops(x, sizes)]
        margins = [(0, width - w, 0, height - h) for h, w in sizes]
        return torch.cat(list(map(F.pad, normed, margins)))

    def _filter_response_norm(self, x: Tensor, pictures: Pictures | None) -> Tensor:
        """max(y, threshold) = relu(y - threshold) + threshold, and the bias has room for one."""
        bias = self.bias - self.threshold
        y = normalize(x, self.statistics, self.epsilon, self.weight, bias, True, pictures)
        return without_padding(y + along_channels(self.threshold, x).to(x.dtype), pictures)

    def _evonorm(self, x: Tensor, pictures: Pictures | None) -> Tensor:
        """X * sigmoid(gate * x) over the standard deviation."""
        gate, bias = (along_channels(t, x).to(x.dtype) for t in (self.gate, self.bias))
        y = normalize(x, self.statistics, self.epsilon, self.weight, pictures=pictures)
        return without_padding(y * torch.sigmoid(gate * x) + bias, pictures)

    def track(self, pooled: Moments) -> None:
        """Move the running statistics towards those of a batch, unbiased."""
        count, unbiased = pooled.count, 1.0
        newest = self.momentum
        if newest is None:  # the average over all
            newest = 1 / float(self.num_batches_tracked + 1)
        mean, var = (
            t.detach().squeeze(0) if len(t) == 1 else t.detach().mean(0) for t in pooled[:2]
        )
        if isinstance(count, Tensor):  # no number while torch.compile traces it
            var = var * (count / (count - 1).clamp(min=1))
        elif count:
            unbiased = count / max(count - 1, 1)
        else:
            return
        try:
            self.running_mean.mul_(1 - newest).add_(mean, alpha=newest)
            self.running_var.mul_(1 - newest).add_(var, alpha=newest * unbiased)
            self.num_batches_tracked.add_(1)
        except RuntimeError:  # torch.vmap has one set of statistics for many batches
            refuse_torch_func(f'the running statistics of norm {self.spec!r}')
            raise

    def start_near_batch_norm(self) -> bool:
        """Let a mixture start near its batch norm where the statistics of that are trained already.

        Else a network with trained batch norms would be lost as soon as they become hybrids.

        Returns:
            Whether it does.
        """
        mean, var = self.running_mean, self.running_var
        if var is None or var.is_meta or not (mean.any() or (var != 1).any()):
            return False
        return self.pool.trust_running(self)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args
    ) -> None:
        """Load weights without metadata (safetensors), and with an alpha [] for [1], as well.

        The base class takes those for its own of before version 1, and running statistics that it
        has no place for as an error in any case.
        """
        local_metadata = {'version': 1, **local_metadata}
        alpha_as_vector(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        has_statistics = f'{prefix}running_var' in state_dict
        own = self._parameters.keys() - {'weight', 'bias'}  # what a mixture learns
        has_mixture = any(f'{prefix}{name}' in state_dict for name in own)
        if has_statistics and not has_mixture and self.start_near_batch_norm():
            say_once(f'norm {self.spec!r} {NEAR}, whose weights it has loaded')

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f'{self.num_features}, {self.spec!r}, eps={self.eps}, affine={self.affine}'


def as_images(x: Tensor) -> Tensor:
    """A view [N, C, H, W] of maps [N, C, *], in channels_last if they are."""
    return x.flatten(2, -2) if x.ndim > 4 else x[(..., *[None] * (4 - x.ndim))]


def alpha_as_vector(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Make of a scalar `alpha_logit`, as it was up to version 0.5, one of shape [1]."""
    alpha = state_dict.get(f'{prefix}alpha_logit')
    if alpha is not None and not alpha.ndim:
        state_dict[f'{prefix}alpha_logit'] = alpha[None]


def build_norm(spec: str, num_features: int, **kwargs) -> nn.Module:
    """The norm layer that `spec` names.

    Plain batch norm is torch's own layer for images, because host libraries recognise batch norm by
    its class (`norm_eval`, SyncBN conversion, fusing); everything else is `Norm`.

    Example:
        >>> build_norm('gn', 48)  # 32 groups, or the nearest number of two channels or more
        Norm(48, 'gn', eps=1e-05, affine=True)
        >>> x = torch.randn(2, 48, 3, 3)
        >>> torch.allclose(build_norm('gn', 48)(x), F.group_norm(x, 24), atol=1e-6)
        True
        >>> torch.allclose(build_norm('bn', 48)(x), Norm(48, 'bn')(x), atol=1e-5)
        True
    """
    cfg = norm_cfg(spec)
    if cfg['type'] == 'BN' and not kwargs.get('relu'):
        return nn.BatchNorm2d(num_features, **kwargs)
    return Norm(num_features, spec, **kwargs)


def norm_cfg(spec: str) -> dict:
    """The `norm_cfg` that names the same layer as `build_norm` in an OpenMMLab config.

    Raises:
        UserError: Unknown spec.

    Example:
        >>> norm_cfg('bn'), norm_cfg('Hybrid(IN, LN)')
        ({'type': 'BN'}, {'type': 'Norm', 'spec': 'hybrid(in,ln)'})
    """
    parse(spec, num_channels=1)
    plain, _ = split_spec(spec)
    return dict(type='BN') if plain == 'bn' else dict(type='Norm', spec=plain)
