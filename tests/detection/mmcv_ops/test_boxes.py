"""Suppression of boxes, against exact fractions and numbers of mmcv."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from mmcv import ops


def integer_boxes(count, seed=0):
    """Boxes on whole pixels, some without an area, and distinct scores."""
    random = np.random.RandomState(seed)
    corner = random.randint(0, 12, (count, 2))
    boxes = np.concatenate([corner, corner + random.randint(0, 12, (count, 2))], axis=1)
    return boxes.tolist(), (random.permutation(count) / count + 0.001).tolist()


def exact_iou(a, b, offset):
    """IoU as a fraction; 0 for empty boxes."""
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset for i in (0, 1)]
    inter = max(sides[0], 0) * max(sides[1], 0)
    area = sum((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    return Fraction(inter, area - inter) if area > inter else Fraction(0)


def greedy(boxes, scores, threshold, offset):
    """Indices that greedy suppression keeps."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(exact_iou(boxes[i], boxes[j], offset) <= Fraction(threshold) for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', ['0.3', '0.5', '0.6'])
def test_nms(threshold, offset):
    """The kept boxes, in order, and with a score threshold and a limit."""
    boxes, scores = integer_boxes(60)
    kept = greedy(boxes, scores, threshold, offset)
    args = torch.tensor(boxes).float(), torch.tensor(scores), float(threshold), offset
    dets, inds = ops.nms(*args)
    assert inds.tolist() == kept
    assert torch.equal(dets, torch.cat([args[0][kept], args[1][kept, None]], 1))
    limited = ops.nms(*args, score_threshold=0.4, max_num=5)[1]
    assert limited.tolist() == [i for i in kept if scores[i] > 0.4][:5]


def test_nms_offset_changes_what_is_kept():
    """Offset 1 lets boxes meet that only touch."""
    boxes, scores = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1]]), torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.2, offset=0)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.2, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize('threshold', [0.3, 0.6])
def test_nms_keeps_an_iou_equal_to_the_threshold(threshold):
    """Both are single precision: 0.6 is not above 0.6."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10 * threshold]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), threshold)[1]) == 2


def test_batched_nms_is_nms_per_class():
    """Boxes of other classes do not suppress."""
    boxes, scores = integer_boxes(60, seed=1)
    classes = [i % 3 for i in range(60)]
    kept = []
    for c in range(3):
        mine = [i for i in range(60) if classes[i] == c]
        local = greedy([boxes[i] for i in mine], [scores[i] for i in mine], '0.5', 0)
        kept += [mine[i] for i in local]
    kept.sort(key=lambda i: -scores[i])
    args = torch.tensor(boxes).float(), torch.tensor(scores), torch.tensor(classes)
    for split_thr in (10000, 1):
        cfg = dict(type='nms', iou_threshold=0.5, split_thr=split_thr)
        dets, inds = ops.batched_nms(*args, cfg)
        assert inds.tolist() == kept
        assert torch.equal(dets[:, 4], args[1][kept])


def slow_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Decayed (score, index) pairs in order of choice."""
    left, chosen = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        chosen.append((left.pop(best), best))
        for i in list(left):
            iou = float(exact_iou(boxes[best], boxes[i], offset))
            linear = (1 - iou) if iou >= threshold else 1
            naive = 0 if iou >= threshold else 1
            gaussian = np.exp(-(iou**2) / sigma)
            left[i] *= dict(naive=naive, linear=linear, gaussian=gaussian)[method]
            if left[i] < min_score:
                del left[i]
    return chosen


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method, offset):
    """Order, decayed scores and dropped boxes."""
    boxes, scores = integer_boxes(30)
    settings = (0.35, 0.4, 0.1, method, offset)
    wanted = slow_soft_nms(boxes, scores, *settings)
    assert len(wanted) < 30
    given, given_scores = torch.tensor(boxes).float(), torch.tensor(scores)
    dets, inds = ops.soft_nms(given, given_scores, *settings)
    assert inds.tolist() == [i for _, i in wanted]
    assert dets[:, 4].tolist() == pytest.approx([score for score, _ in wanted], rel=1e-4)
    assert torch.equal(dets[:, :4], given[inds])
    assert given_scores.tolist() == pytest.approx(scores)


def test_soft_nms_thresholds():
    """An equal IoU decays; `min_score` drops decayed scores, not the first; ties keep order."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10]])
    scores = torch.tensor([0.01, 0.01, 0.01])
    settings = dict(iou_threshold=0.5, min_score=0.01, method='naive')
    assert ops.soft_nms(boxes, scores, **settings)[1].tolist() == [0, 2]
    assert ops.soft_nms(boxes[:1], scores[:1] / 2, **settings)[1].tolist() == [0]


def test_nms_match():
    """Groups of a kept box and what it suppressed, also at an equal IoU; empty boxes stay."""
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 5], [0, 0, 10, 9], [3, 3, 3, 3]]
    scores = [7, 9, 6, 8, 5]
    dets = torch.tensor([[*box, score] for box, score in zip(boxes, scores, strict=True)]).float()
    groups = [group.tolist() for group in ops.nms_match(dets[[1, 0, 2, 4]], 0.5)]
    assert groups == [[0], [1, 2], [3]]
    assert [group.tolist() for group in ops.nms_match(dets, 0.9)] == [[1], [3, 0], [2], [4]]


def test_suppression_of_nothing():
    """0 boxes give 0 boxes."""
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for suppress in (ops.nms, ops.soft_nms):
        dets, inds = suppress(boxes, scores, iou_threshold=0.5)
        assert dets.shape == (0, 5)
        assert inds.shape == (0,)
    assert ops.nms_match(torch.zeros(0, 5), 0.5) == []


# Its tests/test_ops/test_nms.py and test_bbox.py

BOXES = torch.tensor([[6.0, 3, 8, 7], [3, 6, 9, 11], [3, 7, 10, 12], [1, 4, 13, 7]])
SCORES = torch.tensor([0.6, 0.9, 0.7, 0.2])
SUPPRESSED = {
    'naive': {1: 0.9, 0: 0.6, 3: 0.2},
    'linear': {1: 0.9, 0: 0.6, 2: 0.29024392, 3: 0.2},
    'gaussian': {1: 0.9, 0: 0.59630775, 2: 0.35275510, 3: 0.18650459},
}


@pytest.mark.parametrize('method', SUPPRESSED)
def test_soft_nms_gives_the_numbers_of_mmcv(method):
    dets, inds = ops.soft_nms(BOXES, SCORES, 0.3, 0.5, 0.01, method)
    assert dict(zip(inds.tolist(), dets[:, 4].tolist(), strict=True)) == pytest.approx(
        SUPPRESSED[method]
    )
    assert inds.tolist() == list(SUPPRESSED[method])
    assert torch.equal(dets[:, :4], BOXES[inds])


def test_nms_gives_the_numbers_of_mmcv():
    assert ops.nms(BOXES, SCORES, 0.3)[1].tolist() == [1, 0, 3]
    first = [[49.1, 32.4, 51.0, 35.9, 0.9], [49.3, 32.9, 51.0, 35.3, 0.9]]
    second = [[35.3, 11.5, 39.9, 14.5, 0.4], [35.2, 11.7, 39.7, 15.7, 0.3]]
    dets = torch.tensor(first + second)
    groups = [group.tolist() for group in ops.nms_match(dets, 0.6)]
    assert [group[0] for group in groups] == ops.nms(dets[:, :4], dets[:, 4], 0.6)[1].tolist()
    assert groups == [[0, 1], [2, 3]]


def test_bbox_overlaps_gives_the_numbers_of_mmcv():
    a = torch.tensor([[1.0, 1, 3, 4], [2, 2, 3, 4], [7, 7, 8, 8]])
    b = torch.tensor([[0.0, 2, 2, 5], [2, 1, 3, 3]])
    wanted = torch.tensor([[1 / 3, 0.5], [0.2, 0.5], [0, 0]])
    torch.testing.assert_close(ops.bbox_overlaps(a, b, offset=1), wanted)
    aligned = ops.bbox_overlaps(a[:2], b, aligned=True, offset=1)
    torch.testing.assert_close(aligned, wanted[:2].diagonal())
    row = torch.tensor([[4.0, 0, 5, 3], [3, 0, 4, 3], [2, 0, 3, 3], [1, 0, 2, 3]])
    overlaps = ops.bbox_overlaps(torch.tensor([[0.0, 0, 3, 3]]), row, offset=1)
    assert overlaps.tolist() == [pytest.approx([0, 0.2, 0.5, 0.5])]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps(mode, offset):
    """Exact fractions of whole boxes, pairwise and aligned; NaN where the divisor is 0."""
    a, b = ([list(map(int, box)) for box in integer_boxes(20, seed)[0]] for seed in (2, 3))

    def overlap(x, y):
        sides = [min(x[i + 2], y[i + 2]) - max(x[i], y[i]) + offset for i in (0, 1)]
        inter = max(sides[0], 0) * max(sides[1], 0)
        first, second = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (x, y))
        divisor = first if mode == 'iof' else first + second - inter
        return inter / divisor if divisor else float('nan')

    boxes = torch.tensor(a).float(), torch.tensor(b).float()
    wanted = torch.tensor([[overlap(x, y) for y in b] for x in a])
    pairs, aligned = (ops.bbox_overlaps(*boxes, mode, aligned, offset) for aligned in (False, True))
    torch.testing.assert_close(pairs, wanted, equal_nan=True)
    torch.testing.assert_close(aligned, wanted.diagonal(), equal_nan=True)
    assert ops.bbox_overlaps(boxes[0], boxes[1][:0], mode).shape == (20, 0)
