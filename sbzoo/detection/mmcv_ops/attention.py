"""Multi-scale deformable attention (arXiv 2010.04159)."""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.detection.mmcv_ops.kernels import wide


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
    operands = wide(sampling_locations), wide(attention_weights)
    return _attend(wide(value), value_spatial_shapes, *operands).to(value.dtype)


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
    leaves = [wide(operand).detach().requires_grad_() for operand in operands]
    with torch.enable_grad():
        output = _attend(leaves[0], value_spatial_shapes, *leaves[1:])
    grads = torch.autograd.grad(output, leaves, wide(grad_output))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
