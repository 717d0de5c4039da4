"""Replacement for `mmcv._ext`, mmcv's compiled operators, on torchvision kernels.

`sbzoo.plugin` puts this module where mmcv looks for its extension, so the names and arguments
below are the ones that mmcv calls. Results go into the tensors that mmcv allocates. Operators
that are missing here import like the others and raise at use.

float16 and bfloat16 inputs are computed in float32 and rounded once, as torchvision does under
autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Never

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

_KERNELS = torch.ops.torchvision
_TINY = torch.finfo(torch.float32).tiny  # mmcv's floor under logarithms, in every precision


def _unavailable(operator: str) -> NotImplementedError:
    return NotImplementedError(
        f'mmcv operator {operator!r} has no torchvision equivalent in sbzoo; install an mmcv with '
        'compiled operators: a wheel listed at https://mmcv.readthedocs.io/en/latest/get_started/'
        'installation.html, or a source build with MMCV_WITH_OPS=1'
    )


def __getattr__(name: str) -> Callable:
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args, **kwargs) -> Never:
        raise _unavailable(name)

    return missing


def get_compiler_version() -> str:
    """Return what replaces the compiler of mmcv's extension."""
    return f'none (torchvision {torchvision.__version__} kernels)'


def get_compiling_cuda_version() -> str:
    """Return the CUDA version that the kernels were built with, or 'not available'."""
    return torch.version.cuda or 'not available'


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


# Non-maximum suppression (NMS)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy NMS of boxes [N, 4]; returns the kept indices, sorted by score.

    With offset 1 a box ends one pixel after x2, y2. Boxes with an IoU above the threshold are
    suppressed; both are compared in float32, where torchvision takes the threshold in double
    precision, so that an IoU of exactly 0.6 stays at threshold 0.6. Equal scores keep their order.
    """
    boxes = boxes.float() + boxes.new_tensor([0, 0, offset, offset])
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return _KERNELS.nms(boxes, scores.float(), threshold)


def _iou(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """IoU [N] of one box [4] with boxes [N, 4]; 0 where both are empty."""
    inter = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset
    inter = inter.clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    area = (box[2:] - box[:2] + offset).prod()
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


# Regions of interest [R, 5]: image index, x1, y1, x2, y2


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
        raise _unavailable('roi_align_forward with pool_mode max')
    size = aligned_height, aligned_width
    pooled = _KERNELS.roi_align(
        _wide(input), _wide(rois), spatial_scale, *size, sampling_ratio, aligned
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
    grad = _KERNELS._roi_align_backward(
        _wide(grad_output), _wide(rois), spatial_scale, *sizes, sampling_ratio, aligned
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
    rois = _wide(rois)
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
    planes = _wide(grad_input).flatten(2)
    index = argmax.long()
    image = rois[:, 0].long()[:, None, None, None].expand_as(index)
    channel = torch.arange(planes.shape[1], device=index.device)[:, None, None].expand_as(index)
    found = index >= 0
    place = image[found], channel[found], index[found]
    planes.index_put_(place, _wide(grad_output)[found], accumulate=True)
    grad_input.copy_(planes.view_as(grad_input))


# Deformable convolution


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
    return [_wide(operand) for operand in (input, weight, offset, mask, bias)]


def _plain(input: Tensor, weight: Tensor, offset: Tensor) -> list[Tensor]:
    """Operands without a modulation; torchvision wants a mask and a bias all the same."""
    return _modulated(input, weight, offset, input.new_zeros(len(input), 1), input.new_empty(0))


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **geometry: int
) -> None:
    """Deformable convolution of input [N, C, H, W] with weight [O, C / group, kH, kW].

    Offset [N, 2 * deformable_group * kH * kW, h, w] holds y before x. Fills output
    [N, O, h, w].
    """
    operands = _plain(input, weight, offset)
    output.copy_(_KERNELS.deform_conv2d(*operands, *_GEOMETRY(geometry), False))


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
    operands = _wide(grad_output), *_plain(input, weight, offset)
    grads = _KERNELS._deform_conv2d_backward(*operands, *_GEOMETRY(geometry), False)
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
    operands = _wide(grad_output), *_plain(input, grad_weight, offset)
    grads = _KERNELS._deform_conv2d_backward(*operands, *_GEOMETRY(geometry), False)
    grad_weight.copy_(grads[1] * scale)


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
    operands = _modulated(input, weight, offset, mask, bias)
    output.copy_(_KERNELS.deform_conv2d(*operands, *_MODULATED_GEOMETRY(geometry), True))


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
    operands = _wide(grad_output), *_modulated(input, weight, offset, mask, bias)
    grads = _KERNELS._deform_conv2d_backward(*operands, *_MODULATED_GEOMETRY(geometry), True)
    targets = [grad_input, grad_weight, grad_offset, grad_mask, grad_bias]
    for target, grad in zip(targets[: 4 + with_bias], grads, strict=False):
        target.copy_(grad)


# Focal losses


def _class_weight(weight: Tensor, target: Tensor) -> Tensor:
    """Weight of each target's class, [N]; 1 without weights and for targets outside them."""
    if not len(weight):  # mmcv's sign for none
        return torch.ones_like(target)
    inside = (target >= 0) & (target < len(weight))
    return torch.where(inside, _wide(weight)[target * inside], 1)


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=_TINY).log()


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill output [N, C] from logits [N, C] and targets [N].

    Every target that is not a class, such as C or -1, is background: negative for all classes.
    A class weight [C] scales the whole row of its target; background rows keep 1, where mmcv
    reads past the weights.
    """
    p = _wide(input).sigmoid()
    positive = target[:, None] == torch.arange(p.shape[1], device=p.device)
    hit = -alpha * (1 - p) ** gamma * _log(p)
    miss = -(1 - alpha) * p**gamma * _log(1 - p)
    output.copy_(torch.where(positive, hit, miss) * _class_weight(weight, target)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill grad_input [N, C] with the derivative of `sigmoid_focal_loss_forward` in the logits."""
    p = _wide(input).sigmoid()
    positive = target[:, None] == torch.arange(p.shape[1], device=p.device)
    hit = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    miss = -(1 - alpha) * p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(torch.where(positive, hit, miss) * _class_weight(weight, target)[:, None])


def _target_probability(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probability [N] of each target, and whether it is a class at all."""
    inside = (target >= 0) & (target < probabilities.shape[1])
    return _wide(probabilities).gather(1, (target * inside)[:, None])[:, 0], inside


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill output [N] from softmax probabilities [N, C] and targets [N].

    Targets outside 0 .. C - 1 are ignored: loss 0.
    """
    p, inside = _target_probability(input, target)
    loss = -alpha * (1 - p) ** gamma * _log(p)
    output.copy_(loss * inside * _class_weight(weight, target))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill grad_input [N, C] with the derivative in the logits; buff [N] holds its row factors."""
    p, inside = _target_probability(input, target)
    rest = (1 - p).clamp(min=_TINY)  # keeps the power below finite where p is 1 and gamma under 1
    derivative = alpha * (gamma * rest ** (gamma - 1) * p * _log(p) - rest**gamma)
    factor = derivative * inside * _class_weight(weight, target)
    buff.copy_(factor)
    hit = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_(factor[:, None] * (hit.float() - _wide(input)))


# Masked convolution, forward only as in mmcv


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill col [C * kernel_h * kernel_w, M] with the patches of im [1, C, H, W] at M places."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].view_as(col))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, **_: int
) -> None:
    """Put col [C, M] at its M places in im [1, C, H, W]; the other places keep their values."""
    im[0][:, mask_h_idx, mask_w_idx] = col


# Multi-scale deformable attention


def _attend(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    # mmcv.ops imports this module in turn
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend to value [N, K, M, D] at locations [N, Q, M, L, P, 2]; returns [N, Q, M * D].

    Shapes [L, 2] are (h, w) per level, locations (x, y) in 0 .. 1.
    """
    operands = _wide(sampling_locations), _wide(attention_weights)
    return _attend(_wide(value), value_spatial_shapes, *operands).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the gradients of value, locations and weights by running the forward pass again."""
    operands = value, sampling_locations, attention_weights
    leaves = [_wide(operand).detach().requires_grad_() for operand in operands]
    with torch.enable_grad():
        output = _attend(leaves[0], value_spatial_shapes, *leaves[1:])
    grads = torch.autograd.grad(output, leaves, _wide(grad_output))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
