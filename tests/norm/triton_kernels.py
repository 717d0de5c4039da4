"""The Triton kernels on a GPU, or by Triton's interpreter, which TRITON_INTERPRET=1 turns on.

`test_triton.py` runs this file in a process of its own, once for each.
"""

import os
import warnings

import numpy as np
import pytest
import torch

from sbzoo.norm.kernels import dispatch
from sbzoo.norm.kernels import triton as triton_kernels

DEVICE = torch.device('cpu' if os.environ.get('TRITON_INTERPRET') == '1' else 'cuda')
FORMATS = [torch.contiguous_format, torch.channels_last]
# With tiles of 256 elements: ragged ones, several to a map, several maps to a tile, one pixel.
SHAPES = [(2, 3, 17, 19), (1, 37, 5, 3), (1, 70, 2, 3), (3, 1, 7, 9), (2, 3, 1, 1), (1, 4, 16, 16)]
FLOATS = [torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(triton_kernels, 'ELEMENTS', 256)
    monkeypatch.setattr(dispatch, 'SHAPES', ((1, 37, 5, 3), (1, 2, 17, 19)))
    dispatch.passes_self_test.cache_clear()


def images(shape, dtype, memory_format, offset=0.0):
    """x, grad and the output y of a ReLU."""
    x, grad, y = (torch.randn(3, *shape) + torch.tensor([offset, 0, 0]).view(3, 1, 1, 1, 1)).to(
        dtype
    )
    return [t.to(DEVICE).contiguous(memory_format=memory_format) for t in (x, grad, y.relu())]


def wide(*tensors):
    """As float64 arrays; tables [N, C] as [N, C, 1, 1]."""
    return [t.double().cpu().numpy().reshape(*t.shape, *(1,) * (4 - t.dim())) for t in tensors]


def assert_close(result, expected, like):
    """Equal but for one rounding to the type and a few in that of the tables."""
    assert result.dtype == like
    inner = torch.finfo(torch.promote_types(like, torch.float32)).eps
    size = np.abs(expected).max(initial=0)
    tolerance = (torch.finfo(like).eps + 8 * inner) * size
    expected = torch.from_numpy(np.ascontiguousarray(expected)).view(result.shape)
    torch.testing.assert_close(result.double().cpu(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize(
    ('shape', 'dtype'),
    [(shape, torch.float32) for shape in SHAPES] + [((2, 3, 17, 19), dtype) for dtype in FLOATS],
)
def test_kernels_equal_the_reference(shape, dtype, memory_format):
    x, grad, y = images(shape, dtype, memory_format)
    of_tables = torch.promote_types(dtype, torch.float32)
    a, b, c = torch.randn(3, *shape[:2], dtype=of_tables, device=DEVICE)
    x_, grad_, y_, a_, b_, c_ = wide(x, grad, y, a, b, c)

    mean, var = triton_kernels.moments(x)
    assert_close(mean, x_.mean((2, 3)), of_tables)
    assert_close(var, x_.var((2, 3)), of_tables)

    for relu, mask, passed in ((False, None, 1), (True, y, y_ > 0)):
        out = triton_kernels.affine(x, a, b, relu)
        assert_close(out, np.maximum(x_ * a_ + b_, 0 if relu else -np.inf), dtype)
        dot, total = triton_kernels.products(grad, x, a, mask)
        assert_close(dot, (grad_ * passed * (x_ - a_)).sum((2, 3)), of_tables)
        assert_close(total, (grad_ * passed).sum((2, 3)), of_tables)
        d_x = triton_kernels.blend(grad, x, a, b, c, mask)
        assert_close(d_x, a_ * grad_ * passed + b_ * x_ + c_, dtype)
        assert out.stride() == d_x.stride() == x.stride()


@pytest.mark.parametrize('memory_format', FORMATS)
def test_variance_survives_an_offset(memory_format):
    x, *_ = images((1, 2, 40, 41), torch.float32, memory_format, offset=1e4)
    exact = x.double().var((2, 3), correction=0)
    naive = x.square().mean((2, 3)) - x.mean((2, 3)).square()
    assert (naive - exact).abs().max() > 0.1
    torch.testing.assert_close(triton_kernels.moments(x)[1].double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize('memory_format', FORMATS)
def test_full_tiles(memory_format, monkeypatch):
    monkeypatch.undo()
    x, *_ = images((1, 3, 67, 71), torch.float32, memory_format)
    (x_,) = wide(x)
    mean, var = triton_kernels.moments(x)
    assert_close(mean, x_.mean((2, 3)), torch.float32)
    assert_close(var, x_.var((2, 3)), torch.float32)


@pytest.mark.parametrize('memory_format', FORMATS)
def test_other_formats_and_expanded_tables(memory_format):
    """A gradient of the other format, images of neither and one row for all samples."""
    x, grad, y = images((2, 6, 5, 4), torch.float32, memory_format)
    row = torch.randn(1, 6, device=DEVICE)
    table = row.repeat(2, 1)
    other = FORMATS[1 - FORMATS.index(memory_format)]
    foreign = grad.contiguous(memory_format=other)
    expected = triton_kernels.blend(grad, x, table, table, table, y)
    same = triton_kernels.blend(foreign, x, *[row.expand(2, 6)] * 3, y)
    torch.testing.assert_close(same, expected, rtol=0, atol=0)
    assert same.stride() == x.stride()

    halves = (
        triton_kernels.moments(x[:, ::2]),
        triton_kernels.products(grad[:, ::2], x[:, ::2], table[:, ::2]),
    )
    wholes = triton_kernels.moments(x), triton_kernels.products(grad, x, table)
    for half, whole in zip(halves, wholes, strict=True):
        torch.testing.assert_close(half, tuple(t[:, ::2] for t in whole))


def test_relu_keeps_nan():
    x = torch.tensor([1.0, torch.nan, -1.0], device=DEVICE).view(1, 1, 1, 3)
    one, zero = torch.ones(1, 1, device=DEVICE), torch.zeros(1, 1, device=DEVICE)
    y = triton_kernels.affine(x, one, zero, relu=True)
    torch.testing.assert_close(y, x.relu(), equal_nan=True)
    d_x = triton_kernels.blend(torch.ones_like(x), torch.zeros_like(x), one, zero, zero, y)
    torch.testing.assert_close(d_x.flatten().tolist(), [1.0, 1.0, 0.0])


def test_no_images():
    """Such as the regions of interest of a detector that proposes none."""
    x, table = torch.randn(0, 4, 7, 7, device=DEVICE), torch.randn(0, 4, device=DEVICE)
    assert triton_kernels.moments(x)[1].shape == (0, 4)
    assert triton_kernels.products(x, x, table)[0].shape == (0, 4)
    assert triton_kernels.blend(x, x, table, table, table).shape == x.shape


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_right_kernels_pass_the_self_test(dtype, memory_format):
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'Norms use')
        assert dispatch.passes_self_test(DEVICE, dtype, memory_format)
    assert torch.equal(torch.get_rng_state(), state)


def naive_moments(x):
    mean = x.mean((2, 3))
    return mean, x.square().mean((2, 3)) - mean.square()


def nan_moments(x):
    return x.mean((2, 3)), torch.full(x.shape[:2], torch.nan)


@pytest.mark.parametrize('moments', [naive_moments, nan_moments])
def test_wrong_kernels_are_reported_once(moments, monkeypatch):
    monkeypatch.setattr(triton_kernels, 'moments', moments)
    with pytest.warns(
        UserWarning, match=rf'{DEVICE}, torch.float32.* are wrong.*: var (inf|\d\S*)$'
    ):
        assert not dispatch.passes_self_test(DEVICE, torch.float32, torch.contiguous_format)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'Norms use')
        assert not dispatch.passes_self_test(DEVICE, torch.float32, torch.contiguous_format)
