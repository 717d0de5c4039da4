"""The four passes over pixels by Triton; `sbzoo.norm.kernels.dispatch` says where they may be used.

Images are contiguous or channels_last. One copy can happen: a gradient of the other format than x
is brought to that of x, and images of neither format are made contiguous.

Importing this module needs Triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from sbzoo.norm.kernels import jit as kernels
from sbzoo.norm.kernels.native import dense, like

ELEMENTS = 4096  # of a tile: 32 per thread, of which `blend` holds three without spilling registers
LINE = 128  # bytes of global memory that move at once


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the pixels of images [N, C, H, W], tables [N, C]."""
    x = dense(x)
    means, variances = _tables_of_tiles(x)
    _launch(kernels.moments, x, x, means, variances)
    if len(means) == 1:
        return means[0], variances[0]
    mean, var = torch.empty_like(means[0]), torch.empty_like(means[0])
    sizes = len(means), mean.numel(), x.shape[2:].numel(), _tile_of(x)[2]
    with torch.cuda.device_of(x):
        kernels.combine[triton.cdiv(mean.numel(), 32),](
            means, variances, mean, var, *sizes, 128, 32
        )
    return mean, var


def affine(x: Tensor, scale: Tensor, shift: Tensor, relu: bool = False) -> Tensor:
    """`x * scale + shift`, with tables [N, C], and a ReLU if asked for; like x."""
    x = dense(x)
    y = torch.empty_like(x)
    _launch(kernels.affine, x, x, *_dense(x, scale, shift), y, RELU=relu)
    return y


def masked(grad: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
    """As in `sbzoo.norm.kernels.native`; here `products` and `blend` mask what they read."""
    return grad, y, None


def products(
    grad: Tensor, x: Tensor, mean: Tensor, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over pixels of `grad * (x - mean)` and of `grad`, tables [N, C].

    Args:
        grad: Gradient of the output [N, C, H, W].
        x: Images [N, C, H, W].
        mean: Table [N, C].
        y: What a ReLU put out [N, C, H, W]; where it is 0, grad counts as 0.
    """
    x = dense(x)
    sums = _tables_of_tiles(x)
    inputs = like(x, grad), x, None if y is None else like(x, y)
    _launch(kernels.products, x, *inputs, *_dense(x, mean), *sums)
    dot, total = sums.sum(1)
    return dot, total


def blend(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    y: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`a * grad + b * x + c`, with tables [N, C] and grad as in `products`; like x."""
    x = dense(x)
    d_x = torch.empty_like(x) if out is None else out
    inputs = like(x, grad), x, None if y is None else like(x, y)
    _launch(kernels.blend, x, *inputs, *_dense(x, a, b, c), d_x)
    return d_x


def _dense(x: Tensor, *tables: Tensor) -> list[Tensor]:
    """Tables as [N, C] in memory, also those that were expanded from fewer rows."""
    return [table.expand(x.shape[:2]).contiguous() for table in tables]


def _tables_of_tiles(x: Tensor) -> Tensor:
    """Room for two tables per tile of pixels, [2, tiles, N, C]."""
    tiles = triton.cdiv(x.shape[2:].numel(), _tile_of(x)[2])
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(2, tiles, *x.shape[:2], dtype=dtype)


def _tile_of(x: Tensor) -> tuple[bool, int, int]:
    """Whether channels lie side by side, and how many channels and pixels a tile has.

    Along memory a tile is at least a whole line long, or all there is.
    """
    most_c = triton.next_power_of_2(x.shape[1])
    most_p = triton.next_power_of_2(x.shape[2:].numel())
    if x.is_contiguous():
        block_p = min(ELEMENTS, most_p)
        return False, min(ELEMENTS // block_p, most_c), block_p
    block_c = min(LINE // x.element_size(), most_c)
    return True, block_c, min(ELEMENTS // block_c, most_p)


def _launch(kernel: Any, x: Tensor, *tensors: Tensor | None, **flags: bool) -> None:
    """One program per tile. Sizes are no constants of a kernel: a detector sees ever new ones."""
    n, channels, pixels, tile = *x.shape[:2], x.shape[2:].numel(), _tile_of(x)
    grid = triton.cdiv(pixels, tile[2]), triton.cdiv(channels, tile[1]), n
    with torch.cuda.device_of(x):  # Triton would launch on the current device
        kernel[grid](*tensors, channels, pixels, TILE=tile, **flags)
