"""The passes over pixels by torch's vectorised kernels, at the speed of memory.

Tables are [N, C], a number for each sample and channel of images [N, C, H, W], in float32 or
wider. A fresh large tensor costs more in page faults than the arithmetic on it, so only results
are allocated at full size: the rest happens in chunks that stay in the cache, on torch's own
vectorised kernels. All functions take contiguous and channels_last images, and return the
format they got. The sums over pixels, `moments` and `products`, also take a crop of one image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sbzoo.norm.moments import wide

_CHUNK = 2**21  # elements
_CROP_CHUNK = 2**18  # of a crop, whose chunks are copied: larger copies are fresh memory each time
_aten = torch.ops.aten


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over H and W, tables [N, C]."""
    if x.is_cuda:
        var, mean = torch.var_mean(wide(x), (2, 3), correction=0)
        return mean, var
    if memory_format(x) is torch.contiguous_format:
        return _tables(x, [_row_moments(wide(packed(part))) for (part,) in _chunks(x)])
    return _tables(x, [_tile_moments(sample) for sample in x.split(1)])


def affine(x: Tensor, scale: Tensor, shift: Tensor, relu: bool = False) -> Tensor:
    """`x * scale + shift`, tables [N, C]; its positive part with `relu`. Like x."""
    result = torch.empty_like(x)
    for out, part, *tables in _chunks(result, x, scale, shift, *_identity(scale)):
        _affine_into(out, part, *tables)
        if relu:
            out.relu_()
    return result


def masked(grad: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradient before a ReLU that put out `y`.

    Returns:
        That gradient; what `products` and `blend` still have to mask it by (nothing, here); and
        a tensor that `blend` may write to, if there is one.
    """
    if y is None:
        return grad, None, None
    grad = _aten.threshold_backward(grad, y, 0)
    return grad, None, grad


def products(
    grad: Tensor, x: Tensor, mean: Tensor, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sums of `grad * (x - mean)` and of `grad` over H and W, tables [N, C]; `y` as in `masked`."""
    chunks = ([*map(packed, images), m] for *images, m in _chunks(grad, x, mean))
    return _tables(x, [_row_products(wide(g), wide(part), m) for g, part, m in chunks])


def blend(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    y: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`a * grad + b * x + c`, tables [N, C]; like x, in `out` if given; `y` as in `masked`."""
    result = torch.empty_like(x) if out is None else out
    for to, g, part, factor, *tables in _chunks(result, grad, x, b, a, c, *_identity(a)):
        exact = to if to.dtype == a.dtype else torch.empty_like(to, dtype=a.dtype)
        _affine_into(exact, g.to(exact.dtype), *tables)
        exact.addcmul_(part, factor.view(1, -1, 1, 1))
        if exact is not to:
            to.copy_(exact)
    return result


def dense(x: Tensor) -> Tensor:
    """Images in one of the two memory formats: x itself, or a contiguous copy of it."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def like(x: Tensor, grad: Tensor) -> Tensor:
    """A gradient in the memory format of x: itself, or a copy of it."""
    return grad.contiguous(memory_format=memory_format(x))


def memory_format(x: Tensor) -> torch.memory_format:
    """The format of `dense` images, or of a crop of them; contiguous where they are both."""
    is_last = x.stride(1) == 1 and not x.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


def packed(x: Tensor) -> Tensor:
    """A crop in memory of its own, in the same format; what is dense itself."""
    return x.contiguous(memory_format=memory_format(x))


def _chunks(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Views [1, rows, H, W] of images like the first, and [rows] of their tables [N, C]."""
    in_rows = memory_format(tensors[0]) is torch.contiguous_format
    return _rows(*tensors) if in_rows else _lines(*tensors)


def _size(x: Tensor) -> int:
    """Elements of a chunk."""
    return _CHUNK if x.is_contiguous(memory_format=memory_format(x)) else _CROP_CHUNK


def _rows(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Maps of any sample and channel."""
    n, c, h, w = tensors[0].shape
    flat = [t.reshape(-1) if t.dim() == 2 else t.view(1, n * c, h, w) for t in tensors]
    step = max(1, _size(tensors[0]) // (h * w))
    if n * c <= step:
        yield flat
    else:
        yield from map(list, zip(*(t.split(step, t.dim() // 4) for t in flat), strict=True))


def _lines(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """All channels of some lines of one sample."""
    _, c, h, w = tensors[0].shape
    step = max(1, _size(tensors[0]) // (c * w))
    samples = (t.unbind() if t.dim() == 2 else t.split(1) for t in tensors)
    for sample in zip(*samples, strict=True):
        for start in range(0, h, step):
            lines = slice(start, start + step)
            yield [t if t.dim() == 1 or h <= step else t[:, :, lines] for t in sample]


def _tables(x: Tensor, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Two tables [N, C] from parts in the order of memory; those of the same rows are summed."""
    n, c = x.shape[:2]
    one, two = (t[0] if len(t) == 1 else torch.cat(t) for t in zip(*parts, strict=True))
    if one.numel() > n * c:
        return one.view(n, -1, c).sum(1), two.view(n, -1, c).sum(1)
    return one.view(n, c), two.view(n, c)


def _row_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of [1, rows, H, W]. Group norm has the fastest kernel; its output is not wanted."""
    _, rows, h, w = x.shape
    _, mean, rstd = torch.native_group_norm(x, None, None, 1, rows, h * w, rows, 0.0)
    return mean[0], rstd[0].pow(-2)


def _tile_moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Of one sample in channels_last, from those of its chunks by the law of total variance."""
    chunks = [part for (part,) in _chunks(sample)]
    parts = [_aten.batch_norm_update_stats(wide(packed(p)), None, None, 0.0) for p in chunks]
    if len(parts) == 1:
        return parts[0]
    means, variances = (torch.stack(tables) for tables in zip(*parts, strict=True))
    share = means.new_tensor([p.shape[2] / sample.shape[2] for p in chunks])[:, None]
    mean = (means * share).sum(0)
    return mean, ((variances + (means - mean).square()) * share).sum(0)


def _identity(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance that change nothing."""
    return torch.zeros_like(table), torch.ones_like(table)


def _affine_into(
    out: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor
) -> None:
    """Batch norm in evaluation is the one affine kernel that is vectorised in both formats."""
    unused = scale.new_empty(0)
    _aten.native_batch_norm.out(
        x, scale, shift, mean, var, False, 0.0, 0.0, out=out, save_mean=unused, save_invstd=unused
    )


def _row_products(grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Batch norm's backward sums, which centre x as they go."""
    one = torch.ones_like(mean)
    _, dot, total = _aten.native_batch_norm_backward(
        grad, x, None, None, None, mean, one, True, 0.0, [False, True, True]
    )
    return dot, total
