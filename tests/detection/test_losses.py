"""The lean focal loss against MMDetection's and torchvision's."""

import pytest
import torch
from mmdet.models.losses import FocalLoss
from torch.autograd.graph import saved_tensors_hooks
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

import sbzoo.detection.losses
from sbzoo.detection.losses import LeanFocalLoss, sigmoid_focal_loss

ROWS, CLASSES = 64, 7


def _logits_and_labels(dtype=torch.float32):
    logits = 4 * torch.randn(ROWS, CLASSES, dtype=dtype)
    logits[0], logits[1] = 90, -90  # where exp overflows and vanishes
    labels = torch.randint(CLASSES + 1, (ROWS,))
    labels[:4] = torch.tensor([0, 0, CLASSES, CLASSES])
    return logits.requires_grad_(), labels


def _loss_and_grad(loss_module, logits, labels, **kwargs):
    loss = loss_module(logits, labels, **kwargs)
    (grad,) = torch.autograd.grad((loss * torch.ones_like(loss).cumsum(0)).sum(), logits)
    return loss.detach(), grad


WEIGHTS = dict(
    none=None,
    rows=torch.linspace(0, 1, ROWS),
    column=torch.linspace(0, 1, ROWS)[:, None],
    logits=torch.linspace(0, 1, ROWS * CLASSES).reshape(ROWS, CLASSES),
    flat=torch.linspace(0, 1, ROWS * CLASSES),
)


@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean', 'avg_factor'])
@pytest.mark.parametrize('weight', WEIGHTS)
@pytest.mark.parametrize('shape', [dict(), dict(gamma=1.5, alpha=0.6, loss_weight=3.0)])
def test_equals_mmdetection(reduction, weight, shape, monkeypatch):
    monkeypatch.setattr(sbzoo.detection.losses, 'CHUNK', 5 * CLASSES)  # does not divide the rows
    inputs = _logits_and_labels()
    options = dict(weight=WEIGHTS[weight], reduction_override=reduction)
    if reduction == 'avg_factor':
        options.update(reduction_override=None, avg_factor=11)
    expected = _loss_and_grad(FocalLoss(**shape), *inputs, **options)
    torch.testing.assert_close(_loss_and_grad(LeanFocalLoss(**shape), *inputs, **options), expected)


def test_equals_torchvision_by_logit_and_by_row():
    logits, labels = _logits_and_labels(torch.float64)
    one_hot = torch.nn.functional.one_hot(labels, CLASSES + 1)[:, :CLASSES].double()
    expected = torchvision_focal_loss(logits, one_hot)
    torch.testing.assert_close(sigmoid_focal_loss(logits, labels), expected)
    by_row = sigmoid_focal_loss(logits, labels, by_row=True)
    torch.testing.assert_close(by_row, expected.sum(1))


@pytest.mark.parametrize('by_row', [False, True])
def test_slope_is_the_numerical_one(by_row):
    logits = torch.randn(10, CLASSES, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(CLASSES + 1, (10,))
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, labels, 1.7, 0.3, by_row), logits
    )


def test_gradient_is_nearer_to_the_exact_one_than_mmdetection():
    logits, labels = _logits_and_labels(torch.float64)
    logits = (logits / 8 - 4.6).detach().requires_grad_()  # about where training starts
    (_, exact), errors = _loss_and_grad(FocalLoss(), logits, labels), {}
    rounded = logits.detach().float().requires_grad_()
    for loss in (FocalLoss(), LeanFocalLoss()):
        _, grad = _loss_and_grad(loss, rounded, labels)
        errors[type(loss)] = (grad / exact - 1).abs().max()
    assert errors[LeanFocalLoss] < 2e-6 < errors[FocalLoss]


@pytest.mark.parametrize('other', ['empty', 'all background', 'soft labels', 'probabilities'])
def test_inputs_that_are_not_the_usual(other):
    logits, labels = _logits_and_labels()
    kwargs = {}
    if other == 'empty':
        logits, labels = logits[:0], labels[:0]
    if other == 'all background':
        labels = torch.full_like(labels, CLASSES)
    if other == 'soft labels':
        labels = torch.rand_like(logits)
    if other == 'probabilities':
        logits, kwargs = logits.sigmoid(), dict(activated=True)
    expected = _loss_and_grad(FocalLoss(**kwargs), logits, labels, avg_factor=3)
    actual = _loss_and_grad(LeanFocalLoss(**kwargs), logits, labels, avg_factor=3)
    torch.testing.assert_close(actual, expected)


def test_half_precision_is_computed_in_float32_and_rounded_once():
    logits, labels = _logits_and_labels()
    logits = logits.detach().bfloat16().requires_grad_()
    loss = sigmoid_focal_loss(logits, labels)
    exact = sigmoid_focal_loss(logits.float(), labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, exact)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    (exact_grad,) = torch.autograd.grad(exact.sum(), logits)
    assert torch.equal(grad, exact_grad)


def test_keeps_one_tensor_of_the_size_of_the_logits():
    logits, labels = _logits_and_labels()
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        LeanFocalLoss()(logits, labels, torch.ones(ROWS), avg_factor=1)
    assert sorted(kept)[-2:] == [ROWS, ROWS * CLASSES]
