"""Overlaps of boxes and non-maximum suppression (NMS)."""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.detection.mmcv_ops.kernels import KERNELS, wide


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy NMS of boxes [N, 4]; returns the kept indices, sorted by score.

    With offset 1 a box ends one pixel after x2, y2. Boxes with an IoU above the threshold are
    suppressed; both are compared in float32, where torchvision takes the threshold in double
    precision, so that an IoU of exactly 0.6 stays at threshold 0.6. Equal scores keep their order.
    """
    boxes = boxes.float() + boxes.new_tensor([0, 0, offset, offset])
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return KERNELS.nms(boxes, scores.float(), threshold)


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Fill ious [M, N] with the overlaps of boxes [M, 4] and [N, 4], or [N] of aligned pairs.

    Mode 0 divides intersections by unions (IoU), mode 1 by the areas of the first boxes (IoF). NaN
    where that is 0.
    """
    first = wide(bboxes1) if aligned else wide(bboxes1)[:, None]
    inter, area, other = _areas(first, wide(bboxes2), offset)
    ious.copy_(inter / (area if mode else area + other - inter))


def _areas(a: Tensor, b: Tensor, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Area of the intersections of boxes [..., 4], of the first and of the second boxes."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + offset
    area, other = ((boxes[..., 2:] - boxes[..., :2] + offset).prod(-1) for boxes in (a, b))
    return sides.clamp(min=0).prod(-1), area, other


def _iou(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """IoU [N] of one box [4] with boxes [N, 4]; 0 where both are empty."""
    inter, area, areas = _areas(box, boxes, offset)
    return (inter / (area + areas - inter)).nan_to_num()


def _decay(overlap: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == 2:
        return torch.exp(-(overlap**2) / sigma)
    lowered = 1 - overlap if method == 1 else torch.zeros_like(overlap)
    return torch.where(overlap >= iou_threshold, lowered, 1)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS of boxes [N, 4]: scores of overlapping boxes decay (arXiv 1704.04503).

    Method 0 drops at the threshold, 1 is linear, 2 Gaussian. A decayed score below `min_score`
    drops out; the first box stays whatever its score. Fills the first K rows of dets [N, 5]
    with boxes and decayed scores and returns their K indices. Equal scores keep their order,
    which mmcv scrambles by its swaps.
    """
    scores = scores.clone()
    left = torch.arange(len(boxes))
    kept = []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept)] = torch.cat([boxes[best], scores[best, None]])
        kept.append(best)
        left = left[left != best]
        overlap = _iou(boxes[best], boxes[left], offset)
        scores[left] *= _decay(overlap, iou_threshold, sigma, method)
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group dets [N, 5] by suppression: each kept index, then those it suppressed.

    Unlike in `nms`, an IoU equal to the threshold suppresses.
    """
    left = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(left):
        overlap = _iou(dets[left[0], :4], dets[left, :4], offset=0)
        member = overlap >= iou_threshold
        member[0] = True
        groups.append(left[member].tolist())
        left = left[~member]
    return groups
