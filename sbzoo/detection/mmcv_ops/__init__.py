"""Replacement for `mmcv._ext`, mmcv's compiled operators, on torchvision kernels and in torch.

`sbzoo.plugin` puts this package where mmcv looks for its extension, so the names and arguments
below are the ones that mmcv calls. Results go into the tensors that mmcv allocates. Operators
that are missing here import like the others and raise at use.

float16 and bfloat16 inputs are computed in float32 and rounded once, as torchvision does under
autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

import torch

from sbzoo.detection.mmcv_ops.attention import ms_deform_attn_backward, ms_deform_attn_forward
from sbzoo.detection.mmcv_ops.boxes import bbox_overlaps, nms, nms_match, softnms
from sbzoo.detection.mmcv_ops.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
from sbzoo.detection.mmcv_ops.deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from sbzoo.detection.mmcv_ops.deform_roi import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
)
from sbzoo.detection.mmcv_ops.focal import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from sbzoo.detection.mmcv_ops.kernels import VERSION
from sbzoo.detection.mmcv_ops.masked_conv import masked_col2im_forward, masked_im2col_forward
from sbzoo.detection.mmcv_ops.missing import unavailable
from sbzoo.detection.mmcv_ops.roi import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

__all__ = [
    'bbox_overlaps',
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
]


def __getattr__(name: str) -> Callable:
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing(*args, **kwargs) -> Never:
        raise unavailable(name)

    return missing


def get_compiler_version() -> str:
    """Return what replaces the compiler of mmcv's extension."""
    return f'none (torchvision {VERSION} kernels)'


def get_compiling_cuda_version() -> str:
    """Return the CUDA version that the kernels were built with, or 'not available'."""
    return torch.version.cuda or 'not available'
