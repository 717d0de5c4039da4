"""Triton kernels of the passes over pixels.

A program holds one tile of one sample, [channels, pixels], in registers and reads it once. A
reduction writes one table per tile and then adds the tiles up in a fixed order, without atomics, so
that a run repeats. Arithmetic has the type of the tables: float32, or float64 for float64 images.

TILE is whether channels lie side by side in memory, and how many channels and pixels a tile has.
Arguments carry no annotations, which Triton would take for the types to compile for.
"""

import triton
import triton.language as tl


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
def moments(x, means, variances, channels, pixels, TILE: tl.constexpr):
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
def combine(
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
def affine(x, scale, shift, y, channels, pixels, TILE: tl.constexpr, RELU: tl.constexpr):
    """A tile of `x * scale + shift`."""
    row, known, element, inside = _place(channels, pixels, TILE)
    factor = tl.load(scale + row, mask=known, other=0)[:, None]
    offset = tl.load(shift + row, mask=known, other=0)[:, None]
    values = tl.load(x + element, mask=inside, other=0).to(factor.dtype) * factor + offset
    if RELU:
        values = tl.where(values <= 0, 0.0, values)  # tl.maximum would turn NaN into 0
    tl.store(y + element, values, mask=inside)


@triton.jit
def products(grad, x, y, mean, dot, total, channels, pixels, TILE: tl.constexpr):
    """Sums of a tile, over pixels."""
    row, known, element, inside = _place(channels, pixels, TILE)
    centre = tl.load(mean + row, mask=known, other=0)[:, None]
    values = _gradient(grad, y, element, inside, centre.dtype)
    centred = tl.load(x + element, mask=inside, other=0).to(centre.dtype) - centre
    row = _row_of_tile(row, channels)
    tl.store(dot + row, tl.sum(values * centred, 1), mask=known)
    tl.store(total + row, tl.sum(values, 1), mask=known)


@triton.jit
def blend(grad, x, y, a, b, c, d_x, channels, pixels, TILE: tl.constexpr):
    """A tile of `a * grad + b * x + c`."""
    row, known, element, inside = _place(channels, pixels, TILE)
    of_grad = tl.load(a + row, mask=known, other=0)[:, None]
    of_x = tl.load(b + row, mask=known, other=0)[:, None]
    rest = tl.load(c + row, mask=known, other=0)[:, None]
    values = _gradient(grad, y, element, inside, rest.dtype)
    image = tl.load(x + element, mask=inside, other=0).to(rest.dtype)
    tl.store(d_x + element, of_grad * values + of_x * image + rest, mask=inside)
