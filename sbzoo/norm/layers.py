"""The one norm layer: moments, a pool, an affine map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from sbzoo.errors import UserError
from sbzoo.norm.moments import Table
from sbzoo.norm.pools import Mix
from sbzoo.norm.spec import canonical, parse


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
        UserError: Unknown spec, no momentum, or what the norm of the spec does not take.
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
        if momentum is None:
            raise UserError(
                f'norm {spec!r}, momentum=None: a number from 0 to 1; for the average over many '
                'batches there is sbzoo.reestimate'
            )
        super().__init__(num_features, eps, momentum, affine, pool.keeps_running)
        self.spec, self.pool, self.relu = canonical(spec)[0], pool, relu
        pool.prepare(self)

    @property
    def is_hybrid(self) -> bool:
        """Whether it learns an alpha."""
        return isinstance(self.pool, Mix)

    @property
    def alpha(self) -> Tensor:
        """The fraction in (0, 1) of the first norm of a hybrid, a scalar or [C]."""
        return _wide(self.alpha_logit).sigmoid()

    @property
    def running(self) -> Table:
        """The running statistics, [1, C]."""
        return Table(_wide(self.running_mean)[None], _wide(self.running_var)[None], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [N, C, H, W].

        Raises:
            UserError: Not such images, or statistics are of single values: instance norm of 1x1
                maps, say.
        """
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise UserError(
                f'norm {self.spec!r} of {list(x.shape)}: it is for images '
                f'[N, {self.num_features}, H, W]; vectors and sequences need a norm of torch'
            )
        if not x.shape[0] and not (self.training and self.pool.spans_ranks):
            return self._nothing(x)
        if x.shape[2] * x.shape[3] == 1 and self.pool.is_of_single_maps(self.num_features):
            raise UserError(
                f'norm {self.spec!r} of {list(x.shape)}: a statistic of a single value leaves '
                'nothing of it, or but its sign; on 1x1 maps take a norm that pools channels '
                '(ln, gn with fewer groups) or no norm'
            )
        return self.pool.forward(x, self)

    def _nothing(self, x: Tensor) -> Tensor:
        """An empty batch like x, with a gradient of zero for each parameter: DDP waits for one."""
        return x * sum(p.sum() for p in self.parameters(recurse=False))

    def track(self, pooled: Table) -> None:
        """Move the running statistics towards those of a batch, unbiased."""
        if not pooled.count:
            return
        mean, var = (
            t.detach().squeeze(0) if len(t) == 1 else t.detach().mean(0) for t in pooled[:2]
        )
        unbiased = pooled.count / max(pooled.count - 1, 1)
        self.running_mean.mul_(1 - self.momentum).add_(mean, alpha=self.momentum)
        self.running_var.mul_(1 - self.momentum).add_(var, alpha=self.momentum * unbiased)
        self.num_batches_tracked.add_(1)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args
    ) -> None:
        """Load weights without metadata (safetensors) as well.

        The base class takes those for its own of before version 1, and running statistics that it
        has no place for as an error in any case.
        """
        local_metadata = {'version': 1, **local_metadata}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f'{self.num_features}, {self.spec!r}, eps={self.eps}, affine={self.affine}'


def _wide(tensor: Tensor) -> Tensor:
    """In the type of the tables, float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


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
    parse(spec, num_channels=1)
    plain, _ = canonical(spec)
    return dict(type='BN') if plain == 'bn' else dict(type='Norm', spec=plain)
