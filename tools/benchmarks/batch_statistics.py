"""Layers whose output for one sample depends on the others in its batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbzoo.norm import Norm
from sbzoo.norm.running_statistics import RunningStatistics


def batch_statistics(model: nn.Module, spec: str) -> Iterator[str]:
    """The layers that mix the samples of a batch in training, those of `spec` itself aside."""
    for name, module in model.named_modules():
        if isinstance(module, RunningStatistics):
            continue  # of a norm that comes by itself
        if isinstance(module, Norm):
            mixes = module.pool.uses_batch and module.spec != spec
        else:
            mixes = isinstance(module, _BatchNorm) or hasattr(module, 'running_var')
        if mixes:
            yield f'{name} {type(module).__name__}'
