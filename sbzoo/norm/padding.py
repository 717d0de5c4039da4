"""The pictures in a padded batch: their sizes, for statistics that leave the padding out.

A batch [N, C, H, W] holds pictures of different sizes in their upper left corners. Norms of each
sample average over the padding too, so that what they make of a picture depends on the largest of
its batch. Here the statistics cover ceil(size / stride) of each picture, and what lies beyond is
zero behind the norm, as the border is that a convolution adds to a picture by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sbzoo.norm.transforms import in_plain_torch

Size = tuple[int, int]  # height and width


class Pictures:
    """The pictures of a batch, for the norms that see maps of it.

    Args:
        sizes: Height and width of each picture in pixels.
        canvas: Height and width that they are padded to.
    """

    def __init__(self, sizes: Sequence[Size], canvas: Size) -> None:
        self.sizes, self.canvas = [tuple(size) for size in sizes], tuple(canvas)
        self.table = torch.tensor(self.sizes)
        self.is_open = True
        self._on: dict[Size, list[Size]] = {}

    def are_in(self, x: Tensor) -> bool:
        """Whether x is a map [N, C, H, W] of them: within the forward pass that they are of.

        A layer that is recomputed in backward (activation checkpointing) sees them again.
        """
        compiling = torch.compiler.is_compiling()
        is_open = self.is_open or (not compiling and torch._C._current_graph_task_id() >= 0)
        return is_open and len(x) == len(self.sizes)

    def on(self, x: Tensor) -> list[Size]:
        """The size of each picture on a map x [N, C, H, W]."""
        shape = tuple(x.shape[2:])
        if shape not in self._on:
            strides = self._strides(shape)
            self._on[shape] = [
                tuple(
                    min(length, math.ceil(pixels / stride))
                    for pixels, stride, length in zip(size, strides, shape, strict=True)
                )
                for size in self.sizes
            ]
        return self._on[shape]

    def mask(self, x: Tensor) -> Tensor:
        """Where x [N, C, H, W] is picture, [N, 1, H, W]; by tensors alone, for torch.compile."""
        strides = x.new_tensor(self._strides(tuple(x.shape[2:])), dtype=torch.float32)
        heights, widths = (self.table.to(x.device) / strides).ceil()[:, :, None].unbind(1)
        rows, columns = (torch.arange(length, device=x.device) for length in x.shape[2:])
        return ((rows < heights)[:, :, None] & (columns < widths)[:, None])[:, None]

    def _strides(self, shape: Size) -> list[float]:
        return [_stride(*pair) for pair in zip(self.canvas, shape, strict=True)]


def _stride(canvas: int, length: int) -> float:
    """Pixels of the canvas for one of a map: a power of two, where one explains its length."""
    exact = canvas / length
    lower = 2.0 ** math.floor(math.log2(exact))
    for power in (lower, 2 * lower):
        if length in (math.floor(canvas / power), math.ceil(canvas / power)):
            return power
    return exact


@contextmanager
def within(norms: Iterable[nn.Module], pictures: Pictures | None) -> Iterator[None]:
    """Let norms leave out what is not of the pictures, in the forward pass inside."""
    for norm in norms:
        norm.pictures = pictures
    try:
        yield
    finally:
        if pictures is not None:
            pictures.is_open = False


def crops(x: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """The pictures in x [N, C, H, W], views [1, C, height, width]."""
    return [one[:, :, :h, :w] for one, (h, w) in zip(x.split(1), sizes, strict=True)]


def num_pixels(x: Tensor, sizes: Sequence[Size] | None) -> int | Tensor:
    """Pixels of each picture in x [N, C, H, W]: a number, or [N, 1] on the CPU if they differ."""
    if sizes is None:
        return x.shape[2] * x.shape[3]
    return torch.tensor([[h * w] for h, w in sizes], dtype=torch.float64)


def without_padding(y: Tensor, pictures: Pictures | None) -> Tensor:
    """Zero what is not picture in y [N, C, H, W], a fresh tensor."""
    if pictures is None:
        return y
    return y * pictures.mask(y) if in_plain_torch() else zero(y, pictures.on(y))


def zero(x: Tensor, sizes: Sequence[Size] | None) -> Tensor:
    """Zero what is not picture in x [N, C, H, W], in place."""
    return x if sizes is None else _Zero.apply(x, sizes)


class _Zero(torch.autograd.Function):
    """Autograd would copy x for each strip."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[Size]) -> Tensor:
        ctx.mark_dirty(x)
        ctx.sizes = sizes
        for sample, (h, w) in zip(x, sizes, strict=True):
            sample[:, h:] = 0
            sample[:, :h, w:] = 0
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return zero(grad.clone(), ctx.sizes), None
