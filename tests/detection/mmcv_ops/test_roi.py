"""RoIAlign and RoIPool, against slow references and numbers of mmcv."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from mmcv import ops
from references import assert_same, clamped_sample, rand


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


# Its tests/test_ops/test_roi_align.py, test_roi_pool.py and test_deform_roi_pool.py

SMALL = [[1.0, 2], [3, 4]]
LARGE = [[1.0, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]
LARGE_GRAD = torch.tensor([0.6875, 0.625, 0.625, 0.0625])  # mmcv lists the outer product
NUMBERS = {
    'align': (
        [[[1.0, 1.25], [1.5, 1.75]], [[1.9375, 4.75], [7.5625, 10.375]]],
        [torch.tensor([[3.0625, 0.4375], [0.4375, 0.0625]]), LARGE_GRAD.outer(LARGE_GRAD)],
    ),
    'pool': (
        [SMALL, [[4.0, 8], [12, 16]]],
        [torch.ones(2, 2), torch.tensor([0.0, 1, 0, 1]).outer(torch.tensor([0.0, 1, 0, 1]))],
    ),
}


@pytest.mark.parametrize(
    ('layer', 'numbers'),
    [
        (ops.RoIAlign(2, 1.0, 2), 'align'),
        (ops.RoIPool(2, 1.0), 'pool'),
        (ops.DeformRoIPoolPack(2, 1, 8, 1.0, 2), 'align'),
    ],
    ids=['align', 'pool', 'deform'],
)
def test_numbers_of_mmcv(layer, numbers):
    for image, output, grad in zip((SMALL, LARGE), *NUMBERS[numbers], strict=True):
        input = torch.tensor([[image]], requires_grad=True)
        end = len(image) - 1.0
        found = layer(input, torch.tensor([[0, 0, 0, end, end]]))
        found.sum().backward()
        torch.testing.assert_close(found, torch.tensor([[output]]))
        torch.testing.assert_close(input.grad[0, 0], grad)


# Deformable RoI pooling


def slow_deform_roi_pool(input, rois, offset, size, scale, ratio, gamma):
    """Each bin is a RoI of its own, moved by its offset."""
    bins = []
    for n, j, i in product(range(len(rois)), range(size[0]), range(size[1])):
        image, x1, y1, x2, y2 = rois[n]
        w, h = (x2 - x1) * scale, (y2 - y1) * scale
        x = x1 * scale + i * w / size[1] + gamma * w * offset[n, 0, j, i]
        y = y1 * scale + j * h / size[0] + gamma * h * offset[n, 1, j, i]
        bins.append(torch.stack([image, x, y, x + w / size[1], y + h / size[0]]))
    pooled = slow_roi_align(input, torch.stack(bins).detach(), (1, 1), 1.0, ratio, True)
    return pooled.view(len(rois), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize('ratio', [0, 2])
def test_deform_roi_pool(ratio):
    """Values and the gradient of the input, also at and over the border."""
    input, rois = rand(2, 3, 6, 7), torch.tensor(ROIS, dtype=torch.float64)
    offset = rand(4, 2, 2, 3, low=-3, high=3, seed=1)
    output = ops.deform_roi_pool(input, rois, offset, (2, 3), 0.6, ratio, 0.2)
    reference = slow_deform_roi_pool(input, rois, offset, (2, 3), 0.6, ratio, 0.2)
    assert_same(output, reference, [input])


def test_deform_roi_pool_has_the_gradient_of_finite_differences():
    """In input and offset, where no sample reaches the border."""
    rois = torch.tensor([[0, 1.3, 1.1, 3.6, 4.2]]).double()
    input, offset = rand(1, 2, 5, 6), rand(1, 2, 2, 2, seed=1)
    pool = ops.DeformRoIPool(2, 1.0, 2, 0.1)
    assert torch.autograd.gradcheck(lambda x, o: pool(x, rois, o), (input, offset))


def test_deform_roi_pool_moves_bins_at_the_border_as_mmcv():
    """The slope there goes on beyond the first pixel along the other axis, and ends at the last."""
    input = torch.tensor([[[[1.0, 2, 4], [8, 16, 32], [64, 128, 256]]]]).double()
    offset = torch.zeros(3, 2, 1, 1).double().requires_grad_()
    places = torch.tensor([[0.5, -0.5], [1.5, 2.5], [0.5, 1.5]])  # x, y of one sample
    rois = torch.cat([torch.zeros(3, 1), places, places + 1], 1).double()
    ops.deform_roi_pool(input, rois, offset, (1, 1), 1.0, 1, 1.0).sum().backward()
    # samples at x, y: rows 0 and 1 extended by y = -.5; the last row twice; between all
    slopes = [[1.5 * 1 - 0.5 * 8, 0.5 * 7 + 0.5 * 14], [0, 0], [0.5 * 8 + 0.5 * 64, 84]]
    assert offset.grad.flatten(1).tolist() == slopes
