"""What re-estimates batch norms finds the running statistics of other norms too."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _of_norm(name: str) -> Any:
    """An attribute that is the norm's."""

    def read(view: RunningStatistics) -> Any:
        return getattr(view.norm, name)

    def write(view: RunningStatistics, value: Any) -> None:
        setattr(view.norm, name, value)

    return property(read, write)


class RunningStatistics(_BatchNorm):
    """The running statistics of a norm, for `torch.optim.swa_utils.update_bn` and its kin.

    Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407) needs statistics of the
    averaged weights. Torch and Lightning reset those of each `_BatchNorm` among the modules of a
    network, and average anew with momentum None. A hybrid cannot be a `_BatchNorm`, as SyncBN
    conversion would replace it; so it shows them this view, which has no state of its own and is
    no child: it is in `modules()`, and not in `state_dict()`, `children()` or `print(model)`.

    Args:
        norm: The norm that it stands for.
    """

    num_features = _of_norm('num_features')
    eps = _of_norm('eps')
    momentum = _of_norm('momentum')
    affine = _of_norm('affine')
    weight = _of_norm('weight')
    bias = _of_norm('bias')
    running_mean = _of_norm('running_mean')
    running_var = _of_norm('running_var')
    num_batches_tracked = _of_norm('num_batches_tracked')
    track_running_stats = _of_norm('track_running_stats')

    def __init__(self, norm: nn.Module) -> None:
        nn.Module.__init__(self)
        vars(self)['norm'] = norm  # not as a child: it is the parent

    def extra_repr(self) -> str:
        """What `print` shows."""
        return str(self.norm)
