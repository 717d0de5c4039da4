"""Dispatch: Triton's kernels where they pass a numerical self-test, torch's elsewhere."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from types import ModuleType

import torch
from torch import Tensor

from sbzoo.norm.kernels import native, reference

# Ragged tiles, several to a map; and several maps to a tile.
SHAPES = ((2, 37, 67, 71), (3, 40, 7, 7))
OFFSET = 30.0  # of the images, so that a variance by E[x^2] - E[x]^2 would show


def kernels_for(x: Tensor) -> ModuleType:
    """The kernels for images x: Triton's where they pass the self-test, else torch's."""
    if not x.numel():
        return reference
    if x.is_cuda and passes_self_test(x.device, x.dtype, native.memory_format(x)):
        from sbzoo.norm.kernels import triton

        return triton
    return native


def has_triton() -> bool:
    """Whether Triton is installed. It comes with torch's builds for GPUs."""
    return importlib.util.find_spec('triton') is not None


@functools.cache
def passes_self_test(
    device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format
) -> bool:
    """Whether the kernels run on this very device and give what their definition in float64 does.

    A numerical self-test on the first call, on small random images, which leaves torch's random
    state alone. Kernels that fail it are reported by a warning.

    Args:
        device: Where the images are.
        dtype: Their type.
        memory_format: `torch.contiguous_format` or `torch.channels_last`.
    """
    if not has_triton():
        return False
    try:
        excess = _excess(device, dtype, memory_format)
    except Exception as error:  # there are as many ways to lack a compiler as there are machines
        complaint = f'do not run: {type(error).__name__}: {error}'
    else:
        wrong = [f'{name} {value:.3g}' for name, value in excess.items() if value > 1]
        if not wrong:
            return True
        complaint = f'are wrong; times the error that rounding explains: {", ".join(wrong)}'
    where = f'{device}, {dtype}, {memory_format}'
    warnings.warn(f"Norms use torch's own kernels: on {where}, Triton's {complaint}", stacklevel=2)
    return False


def _excess(
    device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format
) -> dict[str, float]:
    """The largest error of each result, as a multiple of what rounding explains."""
    from sbzoo.norm.kernels import triton  # only where Triton is

    excess: dict[str, float] = {}
    for shape in SHAPES:
        images = _random(shape, 3)
        images[0] += OFFSET
        images = [x.to(device, dtype, memory_format=memory_format) for x in images]
        wide = torch.promote_types(dtype, torch.float32)
        tables = [table.to(device, wide) for table in _random(shape[:2], 3)]
        exact = _results(reference, *(tensor.double() for tensor in (*images, *tables)))
        for name, result in _results(triton, *images, *tables).items():
            excess[name] = max(excess.get(name, 0.0), _error(result, exact[name]))
    return excess


def _random(shape: tuple[int, ...], count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator)


def _results(
    kernels: ModuleType, x: Tensor, grad: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> dict[str, Tensor]:
    """Everything that the functions of `kernels` return, with and without a ReLU."""
    results = dict(zip(('mean', 'var'), kernels.moments(x), strict=True))
    for relu in (False, True):
        mask, suffix = (y, ' of a ReLU') if relu else (None, '')
        results['affine' + suffix] = kernels.affine(x, a, b, relu)
        results['dot' + suffix], results['total' + suffix] = kernels.products(grad, x, a, mask)
        results['blend' + suffix] = kernels.blend(grad, x, a, b, c, mask)
    return results


def _error(result: Tensor, exact: Tensor) -> float:
    """Relative to the largest value, and to one rounding to the type after a dozen in the wide."""
    wide = torch.promote_types(result.dtype, torch.float32)
    rounding = torch.finfo(result.dtype).eps + 16 * torch.finfo(wide).eps
    error = (result - exact).abs().max() / exact.abs().max() / rounding
    return error.nan_to_num(nan=torch.inf).item()
