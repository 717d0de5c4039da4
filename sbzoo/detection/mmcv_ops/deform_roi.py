"""Deformable RoI pooling (arXiv 1703.06211): RoIAlign whose bins move.

Offset [R, 2, h, w] holds x before y, in units of gamma times the region's width or height; it is
empty where nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from sbzoo.detection.mmcv_ops.kernels import wide


class _Axis(NamedTuple):
    """The two cells [2, bins, samples] beside each sample along an axis, and factors for them."""

    cells: Tensor
    weights: Tensor  # of the linear interpolation; the border holds for one more pixel
    line: Tensor  # the same without a border, which mmcv takes for gradients of the other axis
    slope: Tensor
    extent: float  # of the region


class _Region(NamedTuple):
    image: int
    y: _Axis
    x: _Axis

    def corners(self, images: Tensor) -> Tensor:
        """The four cells around each sample, [C, 2, 2, bins, rows, columns]."""
        return images[self.image][:, self.y.cells[:, None, :, :, None], self.x.cells[:, :, None]]

    def count(self) -> int:
        """How many samples a bin has."""
        return max(self.y.cells.shape[2] * self.x.cells.shape[2], 1)


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fill output [R, C, h, w] with the means of input [N, C, H, W] over the bins of regions."""
    images = wide(input)
    moved = _moved(rois, offset, output.shape[2:])
    for n, region in enumerate(_regions(images, rois, moved, spatial_scale, sampling_ratio, gamma)):
        factors = region.corners(images), region.y.weights, region.x.weights
        total = torch.einsum('cabnij, ani, bnj -> cn', *factors)
        output[n] = (total / region.count()).view_as(output[n])


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fill the gradients of input and of offset, which is empty where offset is."""
    images = wide(input)
    grad_images, grads = torch.zeros_like(images), wide(grad_output).flatten(2)
    moved = _moved(rois, offset, grad_output.shape[2:])
    for n, region in enumerate(_regions(images, rois, moved, spatial_scale, sampling_ratio, gamma)):
        grad = grads[n] / region.count()
        _add(grad_images, region, grad)
        if len(offset):
            grad_offset[n] = gamma * _pull(region, region.corners(images), grad).view_as(offset[n])
    grad_input.copy_(grad_images)


def _add(grad_images: Tensor, region: _Region, grad: Tensor) -> None:
    """Add the gradients [C, bins] of a region to those of its image."""
    planes = grad_images[region.image].flatten(1)
    index = region.y.cells[:, None, :, :, None] * grad_images.shape[3] + region.x.cells[:, :, None]
    shares = torch.einsum('cn, ani, bnj -> cabnij', grad, region.y.weights, region.x.weights)
    planes.index_add_(1, index.flatten(), shares.flatten(1))


def _pull(region: _Region, corners: Tensor, grad: Tensor) -> Tensor:
    """Gradient [2, bins] in x and y of how far each bin moves, in units of the region's size."""
    _, y, x = region
    equation = 'cn, cabnij, ani, bnj -> n'
    along_x = x.extent * torch.einsum(equation, grad, corners, y.line, x.slope)
    along_y = y.extent * torch.einsum(equation, grad, corners, y.slope, x.line)
    return torch.stack((along_x, along_y))


def _moved(rois: Tensor, offset: Tensor, size: torch.Size) -> Tensor:
    return wide(offset) if len(offset) else wide(rois).new_zeros(len(rois), 2, *size)


def _regions(
    images: Tensor, rois: Tensor, moved: Tensor, scale: float, ratio: int, gamma: float
) -> Iterator[_Region]:
    for (image, *box), (dx, dy) in zip(rois.tolist(), moved, strict=True):
        x1, y1, x2, y2 = (side * scale - 0.5 for side in box)
        y = _places(y1 + gamma * (y2 - y1) * dy.T, y2 - y1, ratio).transpose(0, 1)
        x = _places(x1 + gamma * (x2 - x1) * dx, x2 - x1, ratio)
        axes = zip((y, x), images.shape[2:], (y2 - y1, x2 - x1), strict=True)
        yield _Region(int(image), *(_axis(p.flatten(0, 1), *sizes) for p, *sizes in axes))


def _places(start: Tensor, extent: float, ratio: int) -> Tensor:
    """Samples [..., bins, samples] along the last axis of start [..., bins], where each bin is."""
    size = extent / start.shape[-1]
    count = ratio if ratio > 0 else max(ceil(size), 0)
    bin_starts = start + torch.arange(start.shape[-1]).to(start) * size
    return bin_starts[..., None] + (torch.arange(count).to(start) + 0.5) * (size / max(count, 1))


def _axis(places: Tensor, size: int, extent: float) -> _Axis:
    inside = ((places >= -1) & (places <= size)).to(places)
    near = places.clamp(0, size - 1)
    low = near.floor()
    high = (low + 1).clamp(max=size - 1)
    weights = torch.stack((1 - near + low, near - low)) * inside
    line = torch.stack((high - places, places - low)) * inside
    slope = torch.stack((-inside, inside))
    return _Axis(torch.stack((low, high)).long(), weights, line, slope, extent)
