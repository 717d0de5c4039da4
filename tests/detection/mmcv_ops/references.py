"""Slow references that the tests of the operators share."""

from __future__ import annotations

from itertools import product

import torch


def rand(*shape, low=-1.0, high=1.0, seed=0):
    """Uniform float64 values that are a leaf of the graph."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (values * (high - low) + low).requires_grad_()


def assert_same(output, reference, leaves, tolerance=1e-9):
    """Equal values, and equal gradients of a random weighting of them."""
    torch.testing.assert_close(output, reference, rtol=tolerance, atol=tolerance)
    weighting = rand(*output.shape, seed=99).detach().to(output)
    grads = torch.autograd.grad(output, leaves, weighting)
    expected = torch.autograd.grad(reference, leaves, weighting, retain_graph=True)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=tolerance, atol=tolerance)
        assert wanted.abs().sum() > 0


def sample(planes, y, x):
    """Bilinear value [C] of planes [C, H, W] at (y, x), zero outside."""
    height, width = planes.shape[1:]
    total = planes.new_zeros(len(planes))
    top, left = int(y.floor()), int(x.floor())
    for i, j in product((top, top + 1), (left, left + 1)):
        if 0 <= i < height and 0 <= j < width:
            total = total + planes[:, i, j] * (1 - (y - i).abs()) * (1 - (x - j).abs())
    return total


def clamped_sample(planes, y, x):
    """As `sample`, but the border holds for one more pixel."""
    height, width = planes.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return planes.new_zeros(len(planes))
    return sample(planes, y.clamp(0, height - 1), x.clamp(0, width - 1))
