"""Focal losses, against autograd and numbers of mmcv."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from references import assert_same, rand


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(weighted, reduction):
    """Targets 4 (C) and -1 are background; class weights scale rows."""
    logits, target = rand(6, 4, low=-4, high=4), torch.tensor([0, 3, 4, 1, -1, 1])
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0]).double() if weighted else None
    positive = torch.zeros(6, 4, dtype=torch.bool)
    positive[[0, 1, 3, 5], [0, 3, 1, 1]] = True
    log_p = F.logsigmoid(torch.where(positive, logits, -logits))
    alpha = 0.7 - 0.4 * positive.double()
    loss = -alpha * (1 - log_p.exp()) ** 1.5 * log_p
    if weighted:
        loss = loss * torch.tensor([0.5, 3, 1, 2, 1, 2]).double()[:, None]
    loss = dict(none=loss, mean=loss.sum() / 6, sum=loss.sum())[reduction]
    layer = ops.SigmoidFocalLoss(1.5, 0.3, weight, reduction)
    assert_same(layer(logits, target), loss, [logits])


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
def test_softmax_focal_loss(weighted, reduction):
    """Targets that are no class are ignored, but count in the mean."""
    logits, target = rand(6, 4, low=-4, high=4), torch.tensor([0, 3, 4, 1, -1, 1])
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0]).double() if weighted else None
    log_p = F.log_softmax(logits, 1)[[0, 1, 3, 5], [0, 3, 1, 1]]
    loss = -0.3 * (1 - log_p.exp()) ** 1.5 * log_p
    if weighted:
        loss = loss * torch.tensor([0.5, 3, 2, 2]).double()
    rows = torch.zeros(6, dtype=torch.float64).index_put((torch.tensor([0, 1, 3, 5]),), loss)
    per_row = ops.softmax_focal_loss(logits, target, 1.5, 0.3, weight, 'none')
    torch.testing.assert_close(per_row, rows)
    loss = loss.sum() / 6 if reduction == 'mean' else loss.sum()
    layer = ops.SoftmaxFocalLoss(1.5, 0.3, weight, reduction)
    assert_same(layer(logits, target), loss, [logits])


@pytest.mark.parametrize('layer', [ops.SigmoidFocalLoss, ops.SoftmaxFocalLoss])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_focal_losses_are_finite_at_saturation(layer, gamma):
    """Probabilities of exactly 0 and 1 in single precision."""
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    loss = layer(gamma, 0.25, reduction='sum')(logits, torch.tensor([0, 1]))
    loss.backward()
    assert 20 < loss < 200
    assert logits.grad.isfinite().all()


def test_focal_losses_of_nothing():
    """0 rows give loss 0."""
    logits = torch.zeros(0, 4, requires_grad=True)
    for layer in (ops.SigmoidFocalLoss, ops.SoftmaxFocalLoss):
        loss = layer(2.0, 0.25, reduction='sum')(logits, torch.zeros(0, dtype=torch.long))
        loss.backward()
        assert loss == 0
        assert logits.grad.shape == (0, 4)


# Its tests/test_ops/test_focal_loss.py: logits and targets; softmax loss and gradient; sigmoid's
NUMBERS = {
    'two': (
        ([[1.0, 0], [0, 1]], [0, 1]),
        (0.00566451, [[-0.00657264, 0.00657264], [0.00657264, -0.00657264]]),
        (0.13562961, [[-0.00657264, 0.11185755], [0.11185755, -0.00657264]]),
    ),
    'three': (
        ([[1.0, 0, -1], [0, 1, 2]], [2, 1]),
        (
            0.34956908,
            [[0.10165970, 0.03739851, -0.13905823], [0.01227554, -0.10298023, 0.09070466]],
        ),
        (
            1.10251057,
            [[0.28808805, 0.11185755, -0.09602935], [0.11185755, -0.00657264, 0.40376765]],
        ),
    ),
}


@pytest.mark.parametrize('name', NUMBERS)
def test_focal_losses_give_the_numbers_of_mmcv(name):
    (logits, target), *numbers = NUMBERS[name]
    losses = ops.softmax_focal_loss, ops.sigmoid_focal_loss
    for loss, (value, grad) in zip(losses, numbers, strict=True):
        leaf = torch.tensor(logits, requires_grad=True)
        found = loss(leaf, torch.tensor(target), 2.0, 0.25, None, 'mean')
        found.backward()
        torch.testing.assert_close(found, torch.tensor(value), rtol=1e-4, atol=0)
        torch.testing.assert_close(leaf.grad, torch.tensor(grad), rtol=1e-4, atol=1e-8)
