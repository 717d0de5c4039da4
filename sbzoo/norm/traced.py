"""Norms in evaluation, in as few of torch's own operators as there are: for tracers and exporters.

What a tracer records has to be plain torch, without autograd functions or kernels chosen by shape,
and an exporter makes at least one node of each operator. So a norm that torch has is torch's, and
all others are one affine map of the images by two tables.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbzoo.norm.kernels import reference
from sbzoo.norm.moments import Moments, along_channels, wide
from sbzoo.norm.pools import Group, InstanceBatch, Mix, Pool

Maps = tuple[Tensor, Tensor]  # broadcastable to images [N, C, H, W]


def evaluate(x: Tensor, layer: nn.Module) -> Tensor:
    """What a layer of sbzoo makes of images x [N, C, H, W] in evaluation, its ReLU included.

    Args:
        x: Images without padding.
        layer: A `Norm` whose pool leaves the activation to others.
    """
    y = _evaluate(x, layer)
    return y.relu() if layer.relu else y


def _evaluate(x: Tensor, layer: nn.Module) -> Tensor:
    pool, affine = layer.pool, (layer.weight, layer.bias)
    fixed = pool.fixed(layer)
    if fixed is not None:
        return _batch_norm(x, fixed, *affine, layer.epsilon)
    if isinstance(pool, Group) and pool.groups == layer.num_features:
        return F.instance_norm(x, weight=affine[0], bias=affine[1], eps=layer.epsilon)
    if isinstance(pool, Group):
        return F.group_norm(x, pool.groups, *affine, layer.epsilon)
    if isinstance(pool, InstanceBatch):
        return _instance_batch_norm(x, layer)
    mean, var = _statistics(x, pool, layer, layer.epsilon)
    scale = (
        var.rsqrt() if layer.weight is None else along_channels(wide(layer.weight), x) / var.sqrt()
    )
    y = (wide(x) - mean) * scale
    return (y if layer.bias is None else y + along_channels(wide(layer.bias), x)).to(x.dtype)


def _batch_norm(
    x: Tensor, fixed: Moments, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    return F.batch_norm(x, fixed.mean[0], fixed.var[0], weight, bias, eps=eps)


def _instance_batch_norm(x: Tensor, layer: nn.Module) -> Tensor:
    half = layer.num_features // 2
    weights, biases = (
        (None, None) if t is None else (t[:half], t[half:]) for t in (layer.weight, layer.bias)
    )
    of_batch = Moments(*(t[:, half:] for t in layer.running[:2]), 1)
    first = F.instance_norm(x[:, :half], weight=weights[0], bias=biases[0], eps=layer.epsilon)
    second = _batch_norm(x[:, half:], of_batch, weights[1], biases[1], layer.epsilon)
    return torch.cat([first, second], 1)


def _statistics(x: Tensor, pool: Pool, layer: nn.Module, eps: float) -> Maps:
    """Mean, and variance with eps, which is added to what is constant if anything is."""
    fixed = pool.fixed(layer)
    if fixed is not None:
        return along_channels(fixed.mean[0], x), along_channels(fixed.var[0], x) + eps
    if isinstance(pool, Mix):
        (mean, var), other = (_statistics(x, p, layer, 0) for p in (pool.first, pool.second))
        alpha = along_channels(layer.alpha, x)
        mean = mean * alpha + other[0] * (1 - alpha)
        return mean, (var * alpha + eps) + other[1] * (1 - alpha)
    if isinstance(pool, Group) and pool.groups in (1, layer.num_features):
        over = (1, 2, 3) if pool.groups == 1 else (2, 3)
        mean = wide(x).mean(over, keepdim=True)
        return mean, (wide(x) - mean).square().mean(over, keepdim=True) + eps
    mean, var, _ = pool(Moments(*reference.moments_within(x, None)), layer)
    return mean[:, :, None, None], var[:, :, None, None] + eps
