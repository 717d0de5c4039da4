"""CARAFE, against its definition cell by cell."""

from itertools import product

import pytest
import torch
from mmcv import ops
from references import assert_same, rand

from sbzoo.detection import mmcv_ops


def slow_carafe(features, masks, kernel, groups, scale):
    """Each output is the masked sum of the neighbours of the cell that it is in."""
    n, channels, height, width = features.shape
    weights = masks.view(n, groups, kernel, kernel, height * scale, width * scale)
    output = []
    for row, col in product(range(height * scale), range(width * scale)):
        total = torch.zeros(n, groups, channels // groups, dtype=features.dtype)
        for i, j in product(range(kernel), repeat=2):
            y, x = row // scale + i - kernel // 2, col // scale + j - kernel // 2
            if 0 <= y < height and 0 <= x < width:
                here = features[:, :, y, x].view_as(total)
                total = total + here * weights[:, :, i, j, row, col, None]
        output.append(total.flatten(1))
    return torch.stack(output, -1).view(n, channels, height * scale, width * scale)


CASES = [(3, 2, 2), (5, 1, 2), (1, 4, 3), (3, 1, 1)]  # kernel, groups, scale


def operands(kernel, groups, scale):
    masks = rand(2, kernel * kernel * groups, 3 * scale, 4 * scale, seed=1)
    return rand(2, 4, 3, 4), masks


@pytest.mark.parametrize('case', CASES)
def test_carafe(case):
    """Values and the gradients of features and masks."""
    leaves = operands(*case)
    assert_same(ops.carafe(*leaves, *case), slow_carafe(*leaves, *case), leaves)


@pytest.mark.parametrize('case', CASES[:2])
def test_carafe_naive(case):
    """The same; mmcv lets its backward pass through on a GPU alone, so it is called directly."""
    features, masks = leaves = operands(*case)
    output = ops.carafe_naive(*leaves, *case)
    reference = slow_carafe(*leaves, *case)
    torch.testing.assert_close(output, reference)
    sizes = dict(zip(('kernel_size', 'group_size', 'scale_factor'), case, strict=True))
    upstream, grads = rand(*output.shape, seed=2).detach(), [torch.empty_like(x) for x in leaves]
    mmcv_ops.carafe_naive_backward(upstream, features.detach(), masks.detach(), *grads, **sizes)
    for grad, wanted in zip(grads, torch.autograd.grad(reference, leaves, upstream), strict=True):
        torch.testing.assert_close(grad, wanted)


def test_carafe_upsamples_in_half_precision():
    """As a layer of a network, rounded once."""
    features, masks = (x.detach().half() for x in operands(5, 1, 2))
    wide = ops.carafe(features.float(), masks.float(), 5, 1, 2)
    torch.testing.assert_close(ops.carafe(features, masks, 5, 1, 2), wide.half())
