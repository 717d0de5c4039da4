"""Triton kernels of the passes over pixels; `dispatch` beside this says where they may be used.

A program holds one tile of one sample, [channels, pixels], in registers and reads it once. A
reduction writes one table per tile and then adds the tiles up in a fixed order, without atomics, so
that a run repeats. Arithmetic has the type of the tables: float32, or float64 for float64 images.

Images are contiguous or channels_last. One copy can happen: a gradient of the other format than x
is brought to that of x, and images of neither format are made contiguous.

Importing this module needs Triton.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sbzoo.norm.kernels.native import dense, like

ELEMENTS = 4096  # of a tile: 32 per thread, of which `blend` holds three without spilling registers
LINE = 128  # bytes of global memory that move at once


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the pixels of images [N, C, H, W], tables [N, C]."""
    x = dense(x)
    means, variances = _tables_of_tiles(x)
    _launch(_moments_of_tile, x, x, means, variances)
    if len(means) == 1:
        return means[0], variances[0]
    mean, var = torch.empty_like(means[0]), torch.empty_like(means[0])
    sizes = len(means), mean.numel(), x.shape[2:].numel(), _tile_of(x)[2]
    with torch.cuda.device_of(x):
        _combine_tiles[triton.cdiv(mean.numel(), 32),](means, variances, mean, var, *sizes, 128, 32)
    return mean, var


def affine(x: Tensor, scale: Tensor, shift: Tensor, relu: bool = False) -> Tensor:
    """`x * scale + shift`, with tables [N, C], and a ReLU if asked for; like x."""
    x = dense(x)
    y = torch.empty_like(x)
    _launch(_affine_of_tile, x, x, *_dense(x, scale, shift), y, RELU=relu)
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
    _launch(_products_of_tile, x, *inputs, *_dense(x, mean), *sums)
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
    _launch(_blend_of_tile, x, *inputs, *_dense(x, a, b, c), d_x)
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


# Kernels. TILE is whether channels lie side by side in memory, and how many channels and pixels a
# tile has. Other arguments carry no annotations, which Triton would take for the types to compile
# for.


@triton.jit
def _place(channels, pixels, TILE: tl.constexpr):
    """Rows of the tables [N, C] and elements of the images that this program is about.

    Returns:
        Rows, and which of them exist, [C of a tile]; elements, and which exist, [C, P of a tile].
    """
    sample = tl.program_id(2).to(tl.int64)  # elements may be more than 2^31
    channel = tl.program_id(1) * TILE[1] + tl.arange(0, TILE[1])
    pixel = tl.program_id(0) * TILE[2] + tl.arange(0, TILE[2])
    row = sample * channels + channel
    if TILE[0]:
        element = ((sample * pixels + pixel) * channels)[None, :] + channel[:, None]
    else:
        element = (row * pixels)[:, None] + pixel[None, :]
    known = channel < channels
    return row, known, element, known[:, None] & (pixel < pixels)[None, :]


@triton.jit
def _row_of_tile(row, channels):
    """Where this program's rows are in a table per tile [tiles, N, C]."""
    return row + tl.program_id(0).to(tl.int64) * tl.num_programs(2) * channels


@triton.jit
def _gradient(grad, y, element, inside, dtype: tl.constexpr):
    """A tile of grad, 0 where a ReLU put out 0; where it put out NaN, grad passes as in torch."""
    values = tl.load(grad + element, mask=inside, other=0).to(dtype)
    if y is not None:
        stopped = tl.load(y + element, mask=inside, other=0).to(dtype) <= 0
        values = tl.where(stopped, 0.0, values)
    return values


@triton.jit
def _moments_of_tile(x, means, variances, channels, pixels, TILE: tl.constexpr):
    """Moments of a tile. Its pixels are at hand, so they are centred before they are squared."""
    row, known, element, inside = _place(channels, pixels, TILE)
    values = tl.load(x + element, mask=inside, other=0).to(means.dtype.element_ty)
    count = tl.minimum(pixels - tl.program_id(0) * TILE[2], TILE[2])
    mean = tl.sum(values, 1) / count
    centred = tl.where(inside, values - mean[:, None], 0.0)
    row = _row_of_tile(row, channels)
    tl.store(means + row, mean, mask=known)
    tl.store(variances + row, tl.sum(centred * centred, 1) / count, mask=known)


@triton.jit
def _some_tiles(first, row, tiles, rows, pixels, BLOCK_P: tl.constexpr, TILES: tl.constexpr):
    """Entries [TILES, rows] of a table per tile, which exist, and how many pixels each has."""
    tile = first + tl.arange(0, TILES)[:, None]
    inside = (tile < tiles) & (row < rows)[None, :]
    count = tl.where(inside, tl.minimum(pixels - tile * BLOCK_P, BLOCK_P), 0)
    return tile.to(tl.int64) * rows + row[None, :], inside, count


@triton.jit
def _combine_tiles(
    means,
    variances,
    mean,
    var,
    tiles,
    rows,
    pixels,
    BLOCK_P,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Law of total variance: the mean of the tiles' variances and the variance of their means."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    centre = tl.zeros([ROWS], means.dtype.element_ty)
    for first in range(0, tiles, TILES):
        entry, inside, count = _some_tiles(first, row, tiles, rows, pixels, BLOCK_P, TILES)
        centre += tl.sum(count * tl.load(means + entry, mask=inside, other=0), 0) / pixels
    spread = tl.zeros([ROWS], means.dtype.element_ty)
    for first in range(0, tiles, TILES):
        entry, inside, count = _some_tiles(first, row, tiles, rows, pixels, BLOCK_P, TILES)
        apart = tl.load(means + entry, mask=inside, other=0) - centre[None, :]
        within = tl.load(variances + entry, mask=inside, other=0)
        spread += tl.sum(count * (within + apart * apart), 0) / pixels
    tl.store(mean + row, centre, mask=row < rows)
    tl.store(var + row, spread, mask=row < rows)


@triton.jit
def _affine_of_tile(x, scale, shift, y, channels, pixels, TILE: tl.constexpr, RELU: tl.constexpr):
    """A tile of `x * scale + shift`."""
    row, known, element, inside = _place(channels, pixels, TILE)
    factor = tl.load(scale + row, mask=known, other=0)[:, None]
    offset = tl.load(shift + row, mask=known, other=0)[:, None]
    values = tl.load(x + element, mask=inside, other=0).to(factor.dtype) * factor + offset
    if RELU:
        values = tl.where(values <= 0, 0.0, values)  # tl.maximum would turn NaN into 0
    tl.store(y + element, values, mask=inside)


@triton.jit
def _products_of_tile(grad, x, y, mean, dot, total, channels, pixels, TILE: tl.constexpr):
    """Sums of a tile, over pixels."""
    row, known, element, inside = _place(channels, pixels, TILE)
    centre = tl.load(mean + row, mask=known, other=0)[:, None]
    values = _gradient(grad, y, element, inside, centre.dtype)
    centred = tl.load(x + element, mask=inside, other=0).to(centre.dtype) - centre
    row = _row_of_tile(row, channels)
    tl.store(dot + row, tl.sum(values * centred, 1), mask=known)
    tl.store(total + row, tl.sum(values, 1), mask=known)


@triton.jit
def _blend_of_tile(grad, x, y, a, b, c, d_x, channels, pixels, TILE: tl.constexpr):
    """A tile of `a * grad + b * x + c`."""
    row, known, element, inside = _place(channels, pixels, TILE)
    of_grad = tl.load(a + row, mask=known, other=0)[:, None]
    of_x = tl.load(b + row, mask=known, other=0)[:, None]
    rest = tl.load(c + row, mask=known, other=0)[:, None]
    values = _gradient(grad, y, element, inside, rest.dtype)
    image = tl.load(x + element, mask=inside, other=0).to(rest.dtype)
    tl.store(d_x + element, of_grad * values + of_x * image + rest, mask=inside)
