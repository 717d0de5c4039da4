"""CARAFE, content-aware reassembly of features (arXiv 1905.02188).

Each cell becomes scale_factor x scale_factor cells, each a sum of the kernel_size x kernel_size
features around the old cell, weighted by a mask of its own that a group of channels shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sbzoo.detection.mmcv_ops.kernels import wide


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill output [N, C, s * h, s * w] from features [N, C, h, w].

    Masks [N, group_size * kernel_size ** 2, s * h, s * w], where s is the scale factor.
    """
    grouped = wide(features).unflatten(1, (group_size, -1))
    weights = _weights(masks, group_size, scale_factor)
    total = _cells(torch.zeros_like(output, dtype=grouped.dtype), group_size, scale_factor)
    for tap, moved in enumerate(_moved(_framed(grouped, kernel_size), kernel_size)):
        total.addcmul_(moved[..., None, :, None], weights[:, :, tap, None])
    output.copy_(total.view_as(output))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_features: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill the gradients of features and masks, shaped like these."""
    grad = _cells(wide(grad_output), group_size, scale_factor)
    framed = _framed(wide(features).unflatten(1, (group_size, -1)), kernel_size)
    grad_framed, weights = torch.zeros_like(framed), _weights(masks, group_size, scale_factor)
    grad_weights = torch.zeros_like(weights)
    pairs = zip(_moved(framed, kernel_size), _moved(grad_framed, kernel_size), strict=True)
    for tap, (moved, grad_moved) in enumerate(pairs):
        grad_moved += (grad * weights[:, :, tap, None]).sum((4, 6))
        grad_weights[:, :, tap] = (grad * moved[..., None, :, None]).sum(2)
    frame = kernel_size // 2
    grad_features.copy_(F.pad(grad_framed, (-frame,) * 4).flatten(1, 2))
    grad_masks.copy_(grad_weights.view_as(grad_masks))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **sizes: int,
) -> None:
    """As `carafe_naive_forward`; rfeatures [N, C, h, w] keeps them for `carafe_backward`."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **sizes)


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **sizes: int,
) -> None:
    """As `carafe_naive_backward`; rfeatures as `carafe_forward` left them."""
    carafe_naive_backward(grad_output, rfeatures, masks, grad_input, grad_masks, **sizes)


def _cells(maps: Tensor, groups: int, scale: int) -> Tensor:
    """Maps [N, C, s * h, s * w] as [N, groups, C / groups, h, s, w, s]."""
    split = maps.unflatten(3, (-1, scale)).unflatten(2, (-1, scale))
    return split.unflatten(1, (groups, -1))


def _weights(masks: Tensor, groups: int, scale: int) -> Tensor:
    return _cells(wide(masks), groups, scale)


def _framed(features: Tensor, kernel_size: int) -> Tensor:
    return F.pad(features, (kernel_size // 2,) * 4)


def _moved(framed: Tensor, kernel_size: int) -> Iterator[Tensor]:
    """A view of the size without the frame for each tap of the kernel."""
    height, width = (size - kernel_size + 1 for size in framed.shape[-2:])
    for i, j in product(range(kernel_size), repeat=2):
        yield framed[..., i : i + height, j : j + width]
