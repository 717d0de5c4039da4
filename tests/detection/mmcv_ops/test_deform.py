"""Deformable convolution, against a slow reference and numbers of mmcv."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from references import assert_same, rand, sample


def moving_sample(planes, y, x):
    """`sample` with mmcv's derivative: to the next pixel, and none at -1 or the size and beyond."""
    here, height, width = (y.detach(), x.detach()), *planes.shape[1:]
    value = sample(planes, *here)
    if not (-1 < y < height and -1 < x < width):
        return value
    top, left = here[0].floor(), here[1].floor()
    down = sample(planes, top + 1, here[1]) - sample(planes, top, here[1])
    right = sample(planes, here[0], left + 1) - sample(planes, here[0], left)
    return value + (y - here[0]) * down.detach() + (x - here[1]) * right.detach()


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
            moved.append(moving_sample(planes, y, x) * mask[n, g, i, j, row, col])
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
    offset = rand(2, 2 * taps, *like.shape[2:], low=-2, high=2, seed=2).detach()
    offset.view(-1)[::2].round_()  # half of the samples on whole pixels, some at -1 and the size
    offset.requires_grad_()
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


def test_larger_maps_than_the_output_are_read_from_their_start():
    """As memory, so that rows do not match; the rest has no gradient."""
    input, offset, mask, weight, rest = deform_operands(DEFORM_CASES[3])
    large = [rand(2, o.shape[1], 7, 5, seed=i) for i, o in enumerate((offset, mask))]
    leading = [
        torch.stack([x.flatten()[: o[0].numel()].view_as(o[0]) for x in maps])
        for maps, o in zip(large, (offset, mask), strict=True)
    ]
    reference = slow_deform(input, *leading, weight, *rest)
    output = ops.modulated_deform_conv2d(input, *large, weight, None, *rest)
    assert_same(output, reference, [input, *large, weight])


def test_maps_of_another_size_are_refused():
    """Smaller ones by both versions, larger ones by v1, as mmcv does."""
    input, offset, mask, weight, rest = deform_operands(DEFORM_CASES[0])
    with pytest.raises(ValueError, match='offset or mask of 2x3, output of 3x3'):
        ops.modulated_deform_conv2d(input, offset[:, :, :2], mask, weight, None, *rest)
    with pytest.raises(RuntimeError, match='offset output dims'):
        ops.deform_conv2d(input, F.pad(offset, (0, 1)), weight, *rest)


def test_deform_conv_gives_the_numbers_of_mmcv():
    """Its tests/test_ops/test_deform_conv.py."""
    layer = ops.DeformConv2dPack(1, 1, 2)
    taps = [
        *([0.1, 0.4, 0.6, 0.1], [0.3, 0.2, 0.1, 0.3], [0.5, 0.5, 0.2, 0.8], [0.8, 0.3, 0.9, 0.1]),
        *([0.3, 0.1, 0.2, 0.5], [0.3, 0.7, 0.5, 0.3], [0.6, 0.2, 0.5, 0.3], [0.4, 0.1, 0.8, 0.4]),
    ]
    layer.conv_offset.weight.data = torch.tensor(taps).view(8, 1, 2, 2)
    layer.conv_offset.bias.data = torch.tensor([0.7, 0.1, 0.8, 0.5, 0.6, 0.5, 0.4, 0.7])
    layer.weight.data = torch.tensor([[[[0.4, 0.2], [0.1, 0.9]]]])
    input = torch.tensor([[[[1.0, 2, 3], [0, 1, 2], [3, 5, 2]]]], requires_grad=True)
    output = layer(input)
    output.sum().backward()
    bias_grad = torch.tensor([1.44, -0.72, 0, 0, -0.10, -0.08, -0.54, -0.54])
    for found, wanted in (
        (output, [[1.650, 0], [0, 0]]),
        (input.grad, [[-0.666, 0.204, 0], [0.030, -0.416, 0.012], [0, 0.252, 0.129]]),
        (layer.conv_offset.bias.grad, bias_grad),
        (layer.conv_offset.weight.grad, bias_grad[:, None] * torch.tensor([1, 2, 0, 1])),
        (layer.weight.grad, [[3.62, 0], [0.40, 0.18]]),
    ):
        wanted = torch.as_tensor(wanted).view_as(found)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_modulated_deform_conv_gives_the_numbers_of_mmcv():
    """Its tests/test_ops/test_modulated_deform_conv.py: a fresh layer, whose border is at -1."""
    layer = ops.ModulatedDeformConv2dPack(1, 1, 2, padding=1, bias=False)
    layer.weight.data.fill_(1)
    input = torch.tensor([1.0, 2, 3]).expand(1, 1, 3, 3).clone().requires_grad_()
    output = layer(input)
    output.sum().backward()
    weight_grad = [
        *([-7, -4, 0, 0], [-9, 7.5, -6, 5], [-4, -7, 0, 0], [-7.5, -9, -5, -6]),
        *([-7, -4, -7, -4], [-6, 5, -9, 7.5], [-4, -7, -4, -7], [-5, -6, -7.5, -9]),
        *([10.5, 6, 7, 4], [6, 10.5, 4, 7], [7, 4, 10.5, 6], [4, 7, 6, 10.5]),
    ]
    edge, row = [0.5, 1.5, 2.5, 1.5], [1.0, 3.0, 5.0, 3.0]
    for found, wanted in (
        (output, [edge, row, row, edge]),
        (input.grad, [[2.0] * 3] * 3),
        (layer.weight.grad, [[9.0] * 2] * 2),
        (layer.conv_offset.bias.grad, [-3, -1.5] * 4 + [4.5] * 4),
        (layer.conv_offset.weight.grad, weight_grad),
    ):
        torch.testing.assert_close(found, torch.tensor(wanted).view_as(found))


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
