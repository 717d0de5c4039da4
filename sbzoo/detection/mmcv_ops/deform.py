"""Deformable convolution, v1 (arXiv 1703.06211) and modulated, v2 (arXiv 1811.11168)."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor

from sbzoo.detection.mmcv_ops.kernels import KERNELS, wide

_GEOMETRY = itemgetter(
    'dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group'
)
_MODULATED_GEOMETRY = itemgetter(
    *('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w'),
    *('group', 'deformable_group'),
)


def _modulated(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor
) -> list[Tensor]:
    if not len(bias):  # mmcv's sign for none
        bias = input.new_zeros(len(weight))
    return [wide(operand) for operand in (input, weight, offset, mask, bias)]


def _plain(input: Tensor, weight: Tensor, offset: Tensor) -> list[Tensor]:
    """Operands without a modulation; torchvision wants a mask and a bias all the same."""
    return _modulated(input, weight, offset, input.new_zeros(len(input), 1), input.new_empty(0))


def _gradients(
    grad_output: Tensor, operands: Sequence[Tensor], geometry: Sequence[int], modulated: bool
) -> list[Tensor]:
    """Gradients of input, weight, offset, mask and bias."""
    upstream = wide(grad_output)
    grads = list(KERNELS._deform_conv2d_backward(upstream, *operands, *geometry, modulated))
    _, weight, offset, *_ = operands
    grads[2] = grads[2] * _inside(offset, weight.shape[2:], geometry)
    return grads


def _inside(offset: Tensor, kernel: Sequence[int], geometry: Sequence[int]) -> Tensor:
    """Whether a sample lies beyond -1 in both directions, for each of its two offsets.

    Else it has no gradient in mmcv. In torchvision a sample at exactly -1 has the slope towards the
    first pixel, and there every layer without offsets, such as a fresh one, samples its border.
    """
    y, x = offset.unflatten(1, (-1, *kernel, 2)).unbind(4)  # [N, groups, kH, kW, h, w]
    rows, columns = (
        torch.arange(offset.shape[2 + axis], device=offset.device) * geometry[axis]
        - geometry[2 + axis]
        + torch.arange(kernel[axis], device=offset.device)[:, None] * geometry[4 + axis]
        for axis in (0, 1)
    )
    inside = (y + rows[:, None, :, None] > -1) & (x + columns[:, None] > -1)
    return torch.stack((inside, inside), 4).view_as(offset)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **geometry: int
) -> None:
    """Deformable convolution of input [N, C, H, W] with weight [O, C / group, kH, kW].

    Offset [N, 2 * deformable_group * kH * kW, h, w] holds y before x. Fills output
    [N, O, h, w].
    """
    operands = _plain(input, weight, offset)
    output.copy_(KERNELS.deform_conv2d(*operands, *_GEOMETRY(geometry), False))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    *buffers: Tensor,
    **geometry: int,
) -> None:
    """Fill the gradients of input and offset, shaped like these."""
    operands = _plain(input, weight, offset)
    grads = _gradients(grad_output, operands, _GEOMETRY(geometry), modulated=False)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    *buffers: Tensor,
    scale: float,
    **geometry: int,
) -> None:
    """Fill the gradient of the weight [O, C / group, kH, kW], times `scale`."""
    # the gradient of the weight depends on its shape alone
    operands = wide(grad_output), *_plain(input, grad_weight, offset)
    grads = KERNELS._deform_conv2d_backward(*operands, *_GEOMETRY(geometry), False)
    grad_weight.copy_(grads[1] * scale)


def _leading(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The first entries of each sample of maps [N, C, h', w'], as maps [N, C, h, w] of a size.

    So mmcv's kernel reads offsets and masks of larger maps than its output, which DyHead gives it.

    Raises:
        ValueError: The maps are smaller; mmcv reads what is behind them.
    """
    shape = torch.Size((maps.shape[1], *size))
    if maps.shape[1:].numel() < shape.numel():
        given, wanted = ('x'.join(map(str, s)) for s in (maps.shape[2:], size))
        raise ValueError(f'modulated_deform_conv: offset or mask of {given}, output of {wanted}')
    return maps.flatten(1)[:, : shape.numel()].unflatten(1, shape)


def _padded(grad: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of what `_leading` took entries from: zero for the others."""
    return F.pad(grad.flatten(1), (0, shape[1:].numel() - grad.shape[1:].numel())).view(shape)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    *buffers: Tensor,
    **geometry: int,
) -> None:
    """Modulated `deform_conv_forward` (v2): each sample times its mask.

    Mask [N, deformable_group * kH * kW, h, w]; bias [O], or empty without one.
    """
    size = output.shape[2:]
    operands = _modulated(input, weight, _leading(offset, size), _leading(mask, size), bias)
    output.copy_(KERNELS.deform_conv2d(*operands, *_MODULATED_GEOMETRY(geometry), True))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Fill the gradients of all five operands, shaped like these; no bias, no gradient of it."""
    size = grad_output.shape[2:]
    operands = _modulated(input, weight, _leading(offset, size), _leading(mask, size), bias)
    grads = _gradients(grad_output, operands, _MODULATED_GEOMETRY(geometry), modulated=True)
    grads[2:4] = _padded(grads[2], offset.shape), _padded(grads[3], mask.shape)
    targets = [grad_input, grad_weight, grad_offset, grad_mask, grad_bias]
    for target, grad in zip(targets[: 4 + with_bias], grads, strict=False):
        target.copy_(grad)
