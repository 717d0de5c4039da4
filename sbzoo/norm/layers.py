"""The one norm layer: moments, a pool, an affine map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from sbzoo.norm.moments import Table, normalize
from sbzoo.norm.pools import Group, Mix
from sbzoo.norm.spec import parse


class Norm(_InstanceNorm):
    """Normalises images [N, C, H, W] by the statistics that a spec names.

    The base class is what mmcv's `is_norm` and the weight-decay exemption look for, and what
    convolution fusing and SyncBN conversion leave alone. `norm_eval` does not reach it: a norm
    that keeps running statistics goes on learning them.

    Args:
        num_features: Channels C.
        spec: Which norm; see `sbzoo.norm.NORMS`.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        affine: Whether to learn a weight and a bias per channel.

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
    ) -> None:
        pool = parse(spec, num_features)
        super().__init__(num_features, eps, momentum, affine, track_running_stats=pool.uses_batch)
        self.spec = spec
        self.pool = pool
        if self.is_hybrid:
            self.alpha_logit = nn.Parameter(torch.zeros(()))

    @property
    def is_hybrid(self) -> bool:
        """Whether it learns an alpha."""
        return isinstance(self.pool, Mix)

    @property
    def alpha(self) -> Tensor:
        """The fraction in (0, 1) of the first norm of a hybrid, a scalar."""
        return self.alpha_logit.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, H, W]."""
        if isinstance(self.pool, Group):  # torch has a vectorised kernel for these
            return torch.group_norm(x, self.pool.groups, self.weight, self.bias, self.eps)
        return normalize(x, self._scale_and_shift, tuple(self.parameters()))

    def _scale_and_shift(self, table: Table) -> tuple[Tensor, Tensor]:
        pooled = self.pool(table, self)
        scale = (pooled.var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = (table.mean - pooled.mean) * scale
        return scale.expand_as(shift), shift + self.bias if self.affine else shift

    @torch.no_grad()
    def track(self, pooled: Table) -> None:
        """Move the running statistics towards those of a batch, [1, C] and unbiased."""
        unbiased = pooled.var * (pooled.count / max(pooled.count - 1, 1))
        self.running_mean.lerp_(pooled.mean[0].to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased[0].to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f'{self.num_features}, {self.spec!r}, eps={self.eps}, affine={self.affine}'


def build_norm(spec: str, num_features: int, **kwargs) -> nn.Module:
    """The norm layer that `spec` names.

    Plain batch norm is torch's own layer, because host libraries recognise batch norm by its
    class (`norm_eval`, SyncBN conversion, fusing); everything else is `Norm`.
    """
    cfg = norm_cfg(spec)
    if cfg['type'] == 'BN':
        return nn.BatchNorm2d(num_features, **kwargs)
    return Norm(num_features, cfg['spec'], **kwargs)


def norm_cfg(spec: str) -> dict:
    """The `norm_cfg` that names the same layer as `build_norm` in an OpenMMLab config.

    Raises:
        UserError: Unknown spec.
    """
    parse(spec, num_channels=1)
    return dict(type='BN') if spec == 'bn' else dict(type='Norm', spec=spec)
