"""Focal losses (arXiv 1708.02002)."""

from __future__ import annotations

import torch
from torch import Tensor

from sbzoo.detection.mmcv_ops.kernels import wide

_TINY = torch.finfo(torch.float32).tiny  # mmcv's floor under logarithms, in every precision


def _class_weight(weight: Tensor, target: Tensor) -> Tensor:
    """Weight of each target's class, [N]; 1 without weights and for targets outside them."""
    if not len(weight):  # mmcv's sign for none
        return torch.ones_like(target)
    inside = (target >= 0) & (target < len(weight))
    return torch.where(inside, wide(weight)[target * inside], 1)


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
    p = wide(input).sigmoid()
    positive = target[:, None] == torch.arange(p.shape[1], device=p.device)
    hit = -alpha * (1 - p) ** gamma * _log(p)
    miss = -(1 - alpha) * p**gamma * _log(1 - p)
    output.copy_(torch.where(positive, hit, miss) * _class_weight(weight, target)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill grad_input [N, C] with the derivative of `sigmoid_focal_loss_forward` in the logits."""
    p = wide(input).sigmoid()
    positive = target[:, None] == torch.arange(p.shape[1], device=p.device)
    hit = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    miss = -(1 - alpha) * p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(torch.where(positive, hit, miss) * _class_weight(weight, target)[:, None])


def _target_probability(probabilities: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probability [N] of each target, and whether it is a class at all."""
    inside = (target >= 0) & (target < probabilities.shape[1])
    return wide(probabilities).gather(1, (target * inside)[:, None])[:, 0], inside


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
    grad_input.copy_(factor[:, None] * (hit.float() - wide(input)))
