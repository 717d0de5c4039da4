"""mmcv's operators on `sbzoo.detection.mmcv_ops`, against slow references written here."""

from __future__ import annotations

import importlib
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import mmcv
import mmdet
import mmdet.models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine import Config, DefaultScope
from mmengine.model import revert_sync_batchnorm
from mmengine.utils.dl_utils.misc import mmcv_full_available

import sbzoo.detection.mmcv_ops

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'


def rand(*shape, low=-1.0, high=1.0, seed=0):
    """Uniform float64 values that are a leaf of the graph."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (values * (high - low) + low).requires_grad_()


def assert_same(output, reference, leaves, tolerance=1e-9):
    """Equal values, and equal gradients of a random weighting of them."""
    torch.testing.assert_close(output, reference, rtol=tolerance, atol=tolerance)
    weighting = rand(*output.shape, seed=99).detach().to(output)
    grads = torch.autograd.grad(output, leaves, weighting)
    expected = torch.autograd.grad(reference, leaves, weighting, retain_graph=True)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=tolerance, atol=tolerance)
        assert wanted.abs().sum() > 0


# Installation


def test_found_as_the_extension_of_mmcv():
    """The module is in place and counts as mmcv's extension."""
    assert sys.modules['mmcv._ext'] is sbzoo.detection.mmcv_ops is mmcv._ext
    assert importlib.util.find_spec('mmcv._ext') is not None
    assert mmcv_full_available()
    assert mmcv.utils.ext_loader.check_ops_exist()


def test_a_compiled_extension_is_left_alone(monkeypatch, tmp_path):
    """An `_ext` that mmcv itself ships wins."""
    (tmp_path / '_ext.py').write_text('compiled = True\n')
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.delattr(mmcv, '_ext')
    monkeypatch.setattr(mmcv, '__path__', [*mmcv.__path__, str(tmp_path)])
    assert importlib.import_module('mmcv._ext').compiled


def test_unknown_operators_raise_at_use_by_name():
    """They can be fetched, as mmcv does on import, but not called."""
    boxes = torch.rand(2, 5)
    with pytest.raises(NotImplementedError, match=r"'nms_rotated'.*MMCV_WITH_OPS"):
        ops.nms_rotated(boxes, boxes[:, 0], 0.5)
    with pytest.raises(NotImplementedError, match='roi_align_forward with pool_mode max'):
        ops.RoIAlign(2, pool_mode='max')(torch.rand(1, 1, 4, 4), torch.rand(1, 5))
    with pytest.raises(AttributeError, match='__wrapped__'):
        sbzoo.detection.mmcv_ops.__wrapped__  # noqa: B018


def test_versions_are_strings():
    """What mmcv prints into training logs."""
    assert 'torchvision' in ops.get_compiler_version()
    assert ops.get_compiling_cuda_version() in (torch.version.cuda, 'not available')


# Suppression


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


# Regions of interest


def sample(planes, y, x):
    """Bilinear value [C] of planes [C, H, W] at (y, x), zero outside."""
    height, width = planes.shape[1:]
    total = planes.new_zeros(len(planes))
    top, left = int(y.floor()), int(x.floor())
    for i, j in product((top, top + 1), (left, left + 1)):
        if 0 <= i < height and 0 <= j < width:
            total = total + planes[:, i, j] * (1 - (y - i).abs()) * (1 - (x - j).abs())
    return total


def clamped_sample(planes, y, x):
    """As `sample`, but the border holds for one more pixel."""
    height, width = planes.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return planes.new_zeros(len(planes))
    return sample(planes, y.clamp(0, height - 1), x.clamp(0, width - 1))


def slow_roi_align(input, rois, size, scale, ratio, aligned):
    """Mean of the samples of each bin, one by one."""
    output = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (side * scale - 0.5 * aligned for side in box)
        w, h = x2 - x1, y2 - y1
        if not aligned:
            w, h = max(w, 1), max(h, 1)
        rows = ratio or int(np.ceil(h / size[0]))
        columns = ratio or int(np.ceil(w / size[1]))
        for i, j in product(range(size[0]), range(size[1])):
            total = 0
            for k, m in product(range(rows), range(columns)):
                y = y1 + (i + (k + 0.5) / rows) * h / size[0]
                x = x1 + (j + (m + 0.5) / columns) * w / size[1]
                point = torch.tensor([y, x], dtype=input.dtype)
                total = total + clamped_sample(input[int(image)], *point)
            output.append(total / (rows * columns))
    return torch.stack(output).view(len(rois), *size, -1).permute(0, 3, 1, 2)


ROIS = [
    [0, 1.0, 2.0, 9.0, 7.0],
    [1, 3.3, 0.4, 3.9, 0.9],  # smaller than a cell
    [1, -6.0, -4.0, 4.0, 5.0],  # starts outside
    [0, 8.0, 6.0, 19.0, 15.0],  # ends outside
]


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_roi_align(aligned, ratio):
    """Values and gradients of both alignments, fixed and adaptive sampling."""
    input, rois = rand(2, 3, 6, 7), torch.tensor(ROIS, dtype=torch.float64)
    layer = ops.RoIAlign((2, 3), 0.6, sampling_ratio=ratio, aligned=aligned)
    reference = slow_roi_align(input, rois, (2, 3), 0.6, ratio, aligned)
    assert_same(layer(input, rois), reference, [input])


def slow_roi_pool(input, rois, size, scale):
    """Maximum of each bin, one by one."""
    output = []
    height, width = input.shape[2:]
    for image, x1, y1, x2, y2 in rois.tolist():
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        for i, j in product(range(size[0]), range(size[1])):
            tall, wide = (y2 - y1) / size[0], (x2 - x1) / size[1]
            top, bottom = np.floor(y1 + i * tall), np.ceil(y1 + (i + 1) * tall)
            left, right = np.floor(x1 + j * wide), np.ceil(x1 + (j + 1) * wide)
            rows = slice(*np.clip([top, bottom], 0, height).astype(int))
            columns = slice(*np.clip([left, right], 0, width).astype(int))
            cells = input[int(image), :, rows, columns].flatten(1)
            empty = cells.numel() == 0 or tall <= 0 or wide <= 0
            output.append(cells[:, 0:1].sum(1) * 0 if empty else cells.max(1).values)
    return torch.stack(output).view(len(rois), *size, -1).permute(0, 3, 1, 2)


def test_roi_pool():
    """Values and gradients, with empty bins and regions without an area."""
    malformed = [[0, 5.2, 5.0, 4.2, 9.0], [1, 5.0, 5.0, 2.0, 1.0], [0, 40.0, 40.0, 50.0, 50.0]]
    input, rois = rand(2, 3, 6, 7), torch.tensor(ROIS + malformed, dtype=torch.float64)
    output = ops.RoIPool((2, 3), 0.6)(input, rois)
    assert_same(output, slow_roi_pool(input, rois, (2, 3), 0.6), [input])
    assert not output[-3:].any()
    assert output[:2].all()


def test_roi_pool_gives_ties_to_the_first_cell():
    """In reading order, as mmcv scans."""
    input = torch.ones(1, 1, 4, 4, requires_grad=True)
    ops.RoIPool(1)(input, torch.tensor([[0.0, 1, 1, 2, 2]])).sum().backward()
    assert input.grad.nonzero().tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize('layer', [ops.RoIAlign(2), ops.RoIPool(2)])
def test_no_rois(layer):
    """0 regions give 0 outputs and a zero gradient."""
    input = torch.rand(1, 3, 4, 4, requires_grad=True)
    output = layer(input, torch.zeros(0, 5))
    assert output.shape == (0, 3, 2, 2)
    output.sum().backward()
    assert not input.grad.any()


# Deformable convolution


def slow_deform(input, offset, mask, weight, stride, padding, dilation, groups, deform_groups):
    """Deformable convolution one sample at a time; everything by autograd."""
    count, channels = input.shape[:2]
    kernel, (height, width) = weight.shape[2:], offset.shape[2:]
    offset = offset.view(count, deform_groups, *kernel, 2, height, width)
    mask = mask.view(count, deform_groups, *kernel, height, width)
    columns = []
    for n, row, col, i, j in product(*map(range, (count, height, width, *kernel))):
        moved = []
        for g, planes in enumerate(input[n].chunk(deform_groups)):
            y, x = offset[n, g, i, j, :, row, col]
            y = y + row * stride[0] - padding[0] + i * dilation[0]
            x = x + col * stride[1] - padding[1] + j * dilation[1]
            moved.append(sample(planes, y, x) * mask[n, g, i, j, row, col])
        columns.append(torch.cat(moved))
    columns = torch.stack(columns).view(count, height, width, *kernel, groups, channels // groups)
    kernels = weight.view(groups, -1, channels // groups, *kernel)
    output = torch.einsum('nhwklgc,gockl->ngohw', columns, kernels)
    return output.reshape(count, -1, height, width)


DEFORM_CASES = [  # kernel, stride, padding, dilation, groups, deform_groups
    ((3, 2), (1, 1), (0, 0), (1, 1), 1, 1),
    ((3, 3), (2, 1), (1, 2), (1, 2), 2, 1),
    ((2, 3), (1, 2), (2, 1), (2, 1), 1, 2),
    ((2, 2), (2, 2), (1, 1), (1, 1), 2, 2),
]


def deform_operands(case):
    """Input, offset, mask, weight and the remaining arguments of a case."""
    kernel, stride, padding, dilation, groups, deform_groups = case
    input, weight = rand(2, 4, 5, 4), rand(6, 4 // groups, *kernel, seed=1)
    like = F.conv2d(input, weight, None, stride, padding, dilation, groups)
    taps = deform_groups * kernel[0] * kernel[1]
    offset = rand(2, 2 * taps, *like.shape[2:], low=-2, high=2, seed=2)
    mask = rand(2, taps, *like.shape[2:], seed=3)
    return input, offset, mask, weight, case[1:]


@pytest.mark.parametrize('case', DEFORM_CASES)
def test_deform_conv(case):
    """Values and the gradients of input, offset and weight."""
    input, offset, mask, weight, rest = deform_operands(case)
    reference = slow_deform(input, offset, torch.ones_like(mask), weight, *rest)
    layer = ops.DeformConv2d(4, 6, case[0], *rest).double()
    layer.weight.data = weight.detach()
    torch.testing.assert_close(layer(input, offset), reference)
    output = ops.deform_conv2d(input, offset, weight, *rest)
    assert_same(output, reference, [input, offset, weight])


@pytest.mark.parametrize('case', DEFORM_CASES)
def test_modulated_deform_conv(case):
    """Values and the gradients of all operands, with and without a bias."""
    input, offset, mask, weight, rest = deform_operands(case)
    bias = rand(6, seed=4)
    reference = slow_deform(input, offset, mask, weight, *rest)
    leaves = [input, offset, mask, weight]
    assert_same(ops.modulated_deform_conv2d(*leaves, None, *rest), reference, leaves)
    output = ops.modulated_deform_conv2d(*leaves, bias, *rest)
    assert_same(output, reference + bias[:, None, None], [*leaves, bias])


@pytest.mark.parametrize('case', DEFORM_CASES)
def test_zero_offsets_are_plain_convolution(case):
    """With offsets 0 and masks 1 the layers equal conv2d."""
    input, offset, mask, weight, rest = deform_operands(case)
    plain = F.conv2d(input, weight, None, *rest[:4])
    still = torch.zeros_like(offset)
    torch.testing.assert_close(ops.deform_conv2d(input, still, weight, *rest), plain)
    layer = ops.ModulatedDeformConv2d(4, 6, case[0], *rest).double()
    layer.weight.data = weight.detach()
    torch.testing.assert_close(layer(input, still, torch.ones_like(mask)), plain)


# Focal losses


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(weighted, reduction):
    """Targets 4 (C) and -1 are background; class weights scale rows."""
    logits, target = rand(6, 4, low=-4, high=4), torch.tensor([0, 3, 4, 1, -1, 1])
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0]).double() if weighted else None
    positive = torch.zeros(6, 4, dtype=torch.bool)
    positive[[0, 1, 3, 5], [0, 3, 1, 1]] = True
    log_p = F.logsigmoid(torch.where(positive, logits, -logits))
    alpha = 0.7 - 0.4 * positive.double()
    loss = -alpha * (1 - log_p.exp()) ** 1.5 * log_p
    if weighted:
        loss = loss * torch.tensor([0.5, 3, 1, 2, 1, 2]).double()[:, None]
    loss = dict(none=loss, mean=loss.sum() / 6, sum=loss.sum())[reduction]
    layer = ops.SigmoidFocalLoss(1.5, 0.3, weight, reduction)
    assert_same(layer(logits, target), loss, [logits])


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
def test_softmax_focal_loss(weighted, reduction):
    """Targets that are no class are ignored, but count in the mean."""
    logits, target = rand(6, 4, low=-4, high=4), torch.tensor([0, 3, 4, 1, -1, 1])
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0]).double() if weighted else None
    log_p = F.log_softmax(logits, 1)[[0, 1, 3, 5], [0, 3, 1, 1]]
    loss = -0.3 * (1 - log_p.exp()) ** 1.5 * log_p
    if weighted:
        loss = loss * torch.tensor([0.5, 3, 2, 2]).double()
    rows = torch.zeros(6, dtype=torch.float64).index_put((torch.tensor([0, 1, 3, 5]),), loss)
    per_row = ops.softmax_focal_loss(logits, target, 1.5, 0.3, weight, 'none')
    torch.testing.assert_close(per_row, rows)
    loss = loss.sum() / 6 if reduction == 'mean' else loss.sum()
    layer = ops.SoftmaxFocalLoss(1.5, 0.3, weight, reduction)
    assert_same(layer(logits, target), loss, [logits])


@pytest.mark.parametrize('layer', [ops.SigmoidFocalLoss, ops.SoftmaxFocalLoss])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_focal_losses_are_finite_at_saturation(layer, gamma):
    """Probabilities of exactly 0 and 1 in single precision."""
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    loss = layer(gamma, 0.25, reduction='sum')(logits, torch.tensor([0, 1]))
    loss.backward()
    assert 20 < loss < 200
    assert logits.grad.isfinite().all()


def test_focal_losses_of_nothing():
    """0 rows give loss 0."""
    logits = torch.zeros(0, 4, requires_grad=True)
    for layer in (ops.SigmoidFocalLoss, ops.SoftmaxFocalLoss):
        loss = layer(2.0, 0.25, reduction='sum')(logits, torch.zeros(0, dtype=torch.long))
        loss.backward()
        assert loss == 0
        assert logits.grad.shape == (0, 4)


# Masked convolution and attention


@pytest.mark.parametrize(('kernel', 'padding'), [((3, 3), (1, 1)), ((1, 5), (0, 2))])
def test_masked_conv(kernel, padding):
    """The convolution where the mask is positive, 0 elsewhere."""
    layer = ops.MaskedConv2d(3, 5, kernel, padding=padding).double()
    input, mask = rand(1, 3, 6, 7).detach(), rand(1, 6, 7, seed=1).detach()
    plain = F.conv2d(input, layer.weight, layer.bias, padding=padding)
    torch.testing.assert_close(layer(input, mask), plain * (mask > 0))
    assert not layer(input, torch.zeros_like(mask)).any()


def slow_attention(value, shapes, locations, weights):
    """Sum of weighted samples, one by one."""
    starts = [0, *np.cumsum([h * w for h, w in shapes])]
    output = []
    for n, q, m in product(*map(range, locations.shape[:3])):
        total = 0
        for level, point in product(*map(range, locations.shape[3:5])):
            h, w = shapes[level]
            planes = value[n, starts[level] : starts[level + 1], m].T.reshape(-1, h, w)
            x, y = locations[n, q, m, level, point]
            total = (
                total + sample(planes, y * h - 0.5, x * w - 0.5) * (weights[n, q, m, level, point])
            )
        output.append(total)
    return torch.stack(output).view(*locations.shape[:2], -1)


def test_multi_scale_deformable_attention():
    """Values and the gradients of value, locations and weights."""
    shapes = [(4, 3), (2, 2)]
    value, weights = rand(2, 16, 2, 3), rand(2, 3, 2, 2, 2, seed=1)
    locations = rand(2, 3, 2, 2, 2, 2, low=-0.2, high=1.2, seed=2)
    levels, starts = torch.tensor(shapes), torch.tensor([0, 12])
    attend = MultiScaleDeformableAttnFunction.apply
    output = attend(value, levels, starts, locations, weights, 64)
    reference = slow_attention(value, shapes, locations, weights)
    assert_same(output, reference, [value, locations, weights])


# Half precision


def low_precision_calls():
    """One call per operator, as a function of its floating point tensors."""
    rois, target = torch.tensor([[0, 1.0, 1.0, 4.0, 3.0]]), torch.tensor([0, 4])
    image, logits = rand(1, 4, 5, 5).float(), rand(2, 4).float()
    offset, mask = rand(1, 18, 5, 5).float(), rand(1, 9, 5, 5).float()
    weight, shapes, start = rand(4, 4, 3, 3).float(), torch.tensor([[5, 5]]), torch.tensor([0])
    attend = MultiScaleDeformableAttnFunction.apply
    value, place = rand(1, 25, 2, 2).float(), rand(1, 3, 2, 1, 2, 2, low=0).float()
    attention = rand(1, 3, 2, 1, 2).float()
    return {
        'roi_align': (lambda x: ops.RoIAlign(2)(x, rois.to(x)), image),
        'roi_pool': (lambda x: ops.RoIPool(2)(x, rois.to(x)), image),
        'deform': (lambda *x: ops.deform_conv2d(*x, 1, 1), image, offset, weight),
        'modulated': (
            lambda *x: ops.modulated_deform_conv2d(*x, None, 1, 1),
            *(image, offset, mask, weight),
        ),
        'sigmoid': (lambda x: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'sum'), logits),
        'softmax': (lambda x: ops.softmax_focal_loss(x, target, 2.0, 0.25, None, 'sum'), logits),
        'attention': (
            lambda v, p, a: attend(v, shapes, start, p, a, 64),
            *(value, place, attention),
        ),
    }


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', list(low_precision_calls()))
def test_low_precision(name, dtype):
    """Half inputs give half outputs and gradients that one rounding explains."""
    call, *tensors = low_precision_calls()[name]
    low = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    wide = [tensor.detach().float().requires_grad_() for tensor in low]
    output, reference = call(*low), call(*wide)
    assert output.dtype == dtype
    torch.testing.assert_close(output, reference.to(dtype))
    grads = torch.autograd.grad(output.sum(), low)
    expected = torch.autograd.grad(reference.sum(), wide)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted.to(dtype))


# Whole detectors


def small(config):
    """A model config of mmdet's, thin, with few proposals and no checkpoint."""
    model = Config.fromfile(CONFIGS / config).model
    model.backbone.init_cfg = None
    if model.backbone.type == 'ResNet':
        model.backbone.base_channels = model.backbone.stem_channels = 4
        model.neck.in_channels = [16, 32, 64, 128]
    if 'roi_head' in model:
        heads = model.roi_head.bbox_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.fc_out_channels = 32
        for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
            proposals.max_per_img = 50
        model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)  # untrained scores are low
    return model


DETECTORS = {
    'retinanet/retinanet_r50_fpn_1x_coco.py': 'loss_bbox',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': 'loss_centerness',
    'atss/atss_r50_fpn_1x_coco.py': 'loss_centerness',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': 'loss_bbox',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': 'loss_mask',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py': 's2.loss_bbox',
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py': 'loss_bbox',
    'dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py': 'loss_bbox',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': 'loss_bbox',
}


@pytest.mark.parametrize('config', DETECTORS)
def test_detector_trains_and_predicts(config):
    """One loss, its gradients, and one prediction of mmdet's own models."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = revert_sync_batchnorm(MODELS.build(small(config)))
        packed = demo_mm_inputs(1, [[3, 64, 64]], [2], 80, with_mask='mask' in config)
        data = model.data_preprocessor(packed, True)
        losses = model.train()(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
        with torch.no_grad():
            predicted = model.eval()(**data, mode='predict')[0].pred_instances
    assert DETECTORS[config] in losses
    assert loss.isfinite()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.any() for grad in grads)
    assert len(predicted) > 0
    assert predicted.bboxes.isfinite().all()
    assert predicted.scores.isfinite().all()
