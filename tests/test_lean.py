"""Lean training: the gradients, buffers and random numbers of plain training, in less memory."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones import ResNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from sbzoo.bench.memory import Allocated
from sbzoo.norm import build_norm, norm_cfg
from sbzoo.norm.lean import lean, make_lean


def step(model, x, context=nullcontext, backward=lambda loss: loss.backward()):
    """Everything that a training step of a copy of the model leaves."""
    torch.manual_seed(1)
    model = deepcopy(model)
    x = x.clone().requires_grad_()
    with context(model):
        output = model(x)
        loss = (output * torch.linspace(0.5, 1, output.numel()).view_as(output)).sum()
    backward(loss)
    grads = {name: p.grad for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return dict(output=output, x=x.grad, grads=grads, buffers=buffers, random=torch.rand(1))


def assert_same(model, x, **kwargs):
    torch.testing.assert_close(step(model, x, lean, **kwargs), step(model, x), rtol=1e-9, atol=0)


def kept_bytes(model, x, context):
    """Bytes that a forward of the model leaves behind, parameters and input aside."""
    with context(model), Allocated() as allocated:
        output = model(x)
    return allocated.alive() - output.untyped_storage().nbytes()


def resnet(norm_cfg, **kwargs):
    return ResNet(
        *(50, 3, 16, 8),
        norm_cfg=norm_cfg,
        norm_eval=False,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
        zero_init_residual=False,
        **kwargs,
    )
