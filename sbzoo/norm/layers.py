"""The one norm layer: moments, a pool, an affine map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from sbzoo.norm.pools import Frozen, Mix
from sbzoo.norm.spec import parse
from sbzoo.norm.table import Table


class Norm(_InstanceNorm):
    """Normalises images [N, C, H, W] by the statistics that a spec names.

    The base class is what mmcv's `is_norm` and the weight-decay exemption look for, and what
    convolution fusing and SyncBN conversion leave alone. `norm_eval` does not reach it: a norm
    that keeps running statistics goes on learning them, unless it is frozen batch norm (`fbn`).

    Args:
        num_features: Channels C.
        spec: Which norm; see `sbzoo.norm.NORMS`.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        affine: Whether to learn a weight and a bias per channel.
        relu: Whether a ReLU follows, in the same pass over the pixels.

    Raises:
        UserError: Unknown spec.
    """

    _abbr_ = 'bn'  # mmcv names the layer, and so its keys, as in batch norm checkpoints

    def __init__(
        self,
        num_features: int,
        spec: str = 'gn',
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        relu: bool = False,
    ) -> None:
        pool = parse(spec, num_features)
        super().__init__(num_features, eps, momentum, affine, pool.keeps_running)
        self.spec, self.pool, self.relu = spec, pool, relu
        self.tracking = True
        pool.prepare(self)

    @property
    def is_hybrid(self) -> bool:
        """Whether it learns an alpha."""
        return isinstance(self.pool, Mix)

    @property
    def alpha(self) -> Tensor:
        """The fraction in (0, 1) of the first norm of a hybrid, a scalar or [C]."""
        return self.alpha_logit.sigmoid()

    @property
    def running(self) -> Table:
        """The running statistics, [1, C]."""
        return Table(self.running_mean[None], self.running_var[None], 1)

    def learned(self) -> tuple[nn.Parameter, ...]:
        """What it learns beside weight and bias."""
        affine = {'weight', 'bias'}
        return tuple(p for name, p in self._parameters.items() if name not in affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, H, W]."""
        return self.pool.forward(x, self)

    @torch.no_grad()
    def track(self, pooled: Table) -> None:
        """Move the running statistics towards those of a batch, unbiased."""
        if self.tracking:
            share = self.momentum
            unbiased = pooled.count / max(pooled.count - 1, 1)
            self.running_mean.lerp_(pooled.mean.mean(0).to(self.running_mean.dtype), share)
            self.running_var.lerp_(pooled.var.mean(0).to(self.running_var.dtype) * unbiased, share)
            self.num_batches_tracked += 1

    @contextmanager
    def untracked(self) -> Iterator[None]:
        """Compute again what was computed, without another step of the running statistics."""
        before, self.tracking = self.tracking, False
        try:
            yield
        finally:
            self.tracking = before

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f'{self.num_features}, {self.spec!r}, eps={self.eps}, affine={self.affine}'


def build_norm(spec: str, num_features: int, **kwargs) -> nn.Module:
    """The norm layer that `spec` names.

    Plain batch norm is torch's own layer, because host libraries recognise batch norm by its
    class (`norm_eval`, SyncBN conversion, fusing); everything else is `Norm`.
    """
    cfg = norm_cfg(spec)
    if cfg['type'] == 'BN' and not kwargs.get('relu'):
        return nn.BatchNorm2d(num_features, **kwargs)
    return Norm(num_features, spec, **kwargs)


def norm_cfg(spec: str) -> dict:
    """The `norm_cfg` that names the same layer as `build_norm` in an OpenMMLab config.

    Raises:
        UserError: Unknown spec.
    """
    pool = parse(spec, num_channels=1)
    if spec == 'bn':
        return dict(type='BN')
    frozen = dict(requires_grad=False) if isinstance(pool, Frozen) else {}
    return dict(type='Norm', spec=spec, **frozen)
