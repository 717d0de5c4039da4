"""Masked convolution and multi-scale deformable attention, against slow references."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from references import assert_same, rand, sample


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
