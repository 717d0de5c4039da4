"""Segmentations of the COCO format: polygons and run lengths (RLE), and what is wrong with one.

What pycocotools decodes unseen ends in a crash (NaN), in memory without end (a size of 1e9) or in a
mask of another image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from reprlib import repr as short
from typing import Any

Size = tuple[int, int]  # width and height in pixels


def is_given(segmentation: Any) -> bool:
    """Whether there is one: exporters of boxes leave it out, or leave it empty."""
    return bool(segmentation) and segmentation != [[]]


def fault_of(segmentation: Any, size: Size) -> str | None:
    """What makes a segmentation unreadable, or None.

    Args:
        segmentation: Polygons [[x, y, ...], ...] in pixels, or run lengths, as `counts` or as
            pycocotools' string, with their `size` [height, width].
        size: Of the image.
    """
    if isinstance(segmentation, dict):
        return next(_rle_faults(segmentation, size), None)
    if isinstance(segmentation, list) and all(isinstance(p, list) for p in segmentation):
        named = enumerate(segmentation, 1)
        faults = (f'polygon {i} {fault}' for i, p in named if (fault := _polygon_fault(p, size)))
        return next(faults, None)
    return f'segmentation is {short(segmentation)}, not polygons [[x, y, ...], ...] or run lengths'


def _polygon_fault(polygon: list, size: Size) -> str | None:
    if len(polygon) < 6 or len(polygon) % 2:
        return f'has {len(polygon)} number(s), not x and y of three points or more'
    if not set(map(type, polygon)) <= {int, float}:
        return f'is {short(polygon)}, not numbers'
    for values, length in zip((polygon[::2], polygon[1::2]), size, strict=True):
        near = -length <= min(values) and max(values) <= 2 * length
        if not near or math.isnan(sum(values)):  # NaN may hide from min and max
            return f'is {short(polygon)}, not pixels of its {size[0]}x{size[1]} image'
    return None


def _rle_faults(rle: dict, size: Size) -> Iterator[str]:
    """Problems of run lengths; the first is the one to tell."""
    shape, given = [*reversed(size)], rle.get('size')
    if given != shape or set(map(type, given)) != {int}:
        yield f'segmentation has size {short(given)}, not the height and width {shape}'
    counts = rle.get('counts')
    if isinstance(counts, str):
        try:
            counts = decode(counts)
        except ValueError as error:
            yield f'segmentation has counts {short(counts)}: {error}'
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        yield f'segmentation has counts {short(counts)}, not run lengths'
    elif min(counts, default=0) < 0:
        yield f'segmentation has the run length {min(counts)}'
    elif sum(counts) != math.prod(size):
        yield (
            f'segmentation has run lengths of {sum(counts)} pixels, '
            f'and the image has {math.prod(size)}'
        )


def decode(text: str) -> list[int]:
    """The run lengths in pycocotools' string.

    Each is a signed number of 5 bits a character, the lowest first, and from the fourth on its
    difference from the last but one.

    Raises:
        ValueError: It is no such string.
    """
    counts, value, shift = [], 0, 0
    for code in text.encode('utf-8', 'replace'):
        bits = code - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError('not what pycocotools writes')
        value |= (bits & 31) << shift
        shift += 5
        if bits < 32:  # the last of this number, with its sign
            value -= (bits >> 4) << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError('cut short')
    return counts
