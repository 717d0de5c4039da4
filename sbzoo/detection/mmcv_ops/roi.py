"""Regions of interest [R, 5], each an image index, x1, y1, x2 and y2: RoIAlign and RoIPool."""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.detection.mmcv_ops.kernels import KERNELS, wide
from sbzoo.detection.mmcv_ops.missing import unavailable


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign of input [N, C, H, W] into output [R, C, aligned_height, aligned_width].

    Sampling ratio 0 takes as many samples per bin as it covers cells. Maximum pooling
    (`pool_mode` 0) raises.
    """
    if pool_mode == 0:
        raise unavailable('roi_align_forward with pool_mode max')
    size = aligned_height, aligned_width
    pooled = KERNELS.roi_align(
        wide(input), wide(rois), spatial_scale, *size, sampling_ratio, aligned
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill grad_input [N, C, H, W] from grad_output [R, C, aligned_height, aligned_width]."""
    sizes = aligned_height, aligned_width, *grad_input.shape
    grad = KERNELS._roi_align_backward(
        wide(grad_output), wide(rois), spatial_scale, *sizes, sampling_ratio, aligned
    )
    grad_input.copy_(grad)


def _bin_cells(start: Tensor, stop: Tensor, bins: int, cells: int) -> Tensor:
    """Which cells each bin touches, [R, bins, cells], for sides from start to stop [R]."""
    start, size = start[:, None], ((stop - start) / bins)[:, None]
    step = torch.arange(bins, device=start.device)
    low, high = (step * size + start).floor(), ((step + 1) * size + start).ceil()
    cell = torch.arange(cells, device=start.device)
    touched = (cell >= low[..., None]) & (cell < high[..., None])
    return touched & (size > 0)[..., None]


def _masked_max(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return values.masked_fill(~mask, -torch.inf).max(-1)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool: maximum of input [N, C, H, W] over bins of each region, and its index in H * W.

    A region ends at (x2 + 1) * scale and its sides are not rounded, where torchvision rounds
    them first. Bins without a cell, and regions without an area, give 0 and the index -1.
    """
    height, width = input.shape[2:]
    rois = wide(rois)
    (x1, y1), (x2, y2) = rois[:, 1:3].T * spatial_scale, (rois[:, 3:].T + 1) * spatial_scale
    rows = _bin_cells(y1, y2, pooled_height, height)
    columns = _bin_cells(x1, x2, pooled_width, width)
    for roi, image in enumerate(rois[:, 0].long().tolist()):
        # rows of [C, H, bins] first, then columns: ties go to the first cell in reading order
        best, x = _masked_max(input[image, :, :, None], columns[roi])
        best, y = _masked_max(best.transpose(1, 2)[:, None], rows[roi][:, None])
        empty = best == -torch.inf
        output[roi] = best.masked_fill(empty, 0)
        argmax[roi] = (y * width + x.gather(1, y)).masked_fill(empty, -1)


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **_: float
) -> None:
    """Add each gradient of grad_output [R, C, h, w] at its maximum in grad_input [N, C, H, W]."""
    planes = wide(grad_input).flatten(2)
    index = argmax.long()
    image = rois[:, 0].long()[:, None, None, None].expand_as(index)
    channel = torch.arange(planes.shape[1], device=index.device)[:, None, None].expand_as(index)
    found = index >= 0
    place = image[found], channel[found], index[found]
    planes.index_put_(place, wide(grad_output)[found], accumulate=True)
    grad_input.copy_(planes.view_as(grad_input))
