"""Plots as HTML with inline SVG, and images as data URIs.

Positions are percentages of the width, so that text keeps its size. Colours are the page's,
by class, in light and in dark.
"""

from __future__ import annotations

import base64
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator
from PIL import Image

from sbzoo.engine.visualize import Curve
from sbzoo.errors import UserError

POINTS = 120  # of a curve, at most
PICTURES, PICTURE = 1_500_000, 90_000  # bytes of all and of one, before base64 adds a third
WIDTH = 720  # pixels of a picture


class Scale(NamedTuple):
    """An axis from 0 to 100 per cent."""

    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value is, in per cent."""
        low, high = self.ticks[0], self.ticks[-1]
        return round(100 * (value - low) / (high - low), 2)


def scale(numbers: Iterable[float], ticks: int = 3) -> Scale:
    """An axis that holds all finite numbers, from round number to round number."""
    finite = [n for n in numbers if math.isfinite(n)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if low == high:
        low, high = low - abs(low) / 10 - 1e-6, high + abs(high) / 10 + 1e-6
    return Scale(tuple(map(float, MaxNLocator(ticks).tick_values(low, high))))


def dots(rows: Mapping[str, Sequence[float]], texts: Sequence[str]) -> Markup:
    """A row for each label: a small dot for each seed, a large one for their mean, and the spread.

    Args:
        rows: Numbers by label.
        texts: What stands behind each row.
    """
    axis = scale(n for numbers in rows.values() for n in (*numbers, *_spread(numbers)))
    grid = Markup('').join(_line(axis.at(t), 'grid') for t in axis.ticks)
    body = Markup('').join(
        Markup('<span class="label">{}</span><svg class="strip" aria-hidden="true">{}</svg>'
               '<span class="value">{}</span>').format(label, grid + _marks(numbers, axis), text)
        for (label, numbers), text in zip(rows.items(), texts, strict=True)
    )  # fmt: skip
    ticks = Markup('').join(
        Markup('<text x="{}%" y="12">{:.4g}</text>').format(axis.at(t), t) for t in axis.ticks
    )
    foot = Markup('<span></span><svg class="axis" aria-hidden="true">{}</svg><span></span>')
    return Markup('<div class="dots">{}{}</div>').format(body, foot.format(ticks))


def _marks(numbers: Sequence[float], axis: Scale) -> Markup:
    low, high = map(axis.at, _spread(numbers))
    bar = Markup('<line class="spread" x1="{}%" x2="{}%" y1="50%" y2="50%"/>').format(low, high)
    several = numbers if len(numbers) > 1 else ()
    seeds = Markup('').join(_dot(axis.at(n), 2.5, 'seed') for n in several)
    return bar + _dot(axis.at(statistics.mean(numbers)), 5, 'mean') + seeds


def _spread(numbers: Sequence[float]) -> tuple[float, float]:
    """One standard deviation to either side of the mean."""
    mean = statistics.mean(numbers)
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return mean - deviation, mean + deviation


def alpha(value: float) -> Markup:
    """A dot on its way from 0 to 1, with a tick at the middle, where alphas start."""
    middle = _line(50, 'grid')
    track = Markup('<line class="grid" x1="0" x2="100%" y1="50%" y2="50%"/>')
    marks = track + middle + _dot(round(100 * value, 1), 4, 'mean')
    return Markup('<svg class="alpha" aria-hidden="true">{}</svg>').format(marks)


def _line(x: float, name: str) -> Markup:
    return Markup('<line class="{}" x1="{}%" x2="{}%" y1="0" y2="100%"/>').format(name, x, x)


def _dot(x: float, radius: float, name: str) -> Markup:
    return Markup('<circle class="{}" cx="{}%" cy="50%" r="{}"/>').format(name, x, radius)


def curves(key: str, lines: Mapping[str, Curve]) -> Markup:
    """A panel for each run: its curve in front of all the others, on the same axes.

    Args:
        key: Is part of the ids of the page's elements.
        lines: Value by step, by the label of the run.
    """
    thinned = {label: thin(curve) for label, curve in lines.items()}
    points = [p for curve in thinned.values() for p in curve.items()]
    across, up = scale(step for step, _ in points), scale(v for _, v in points)
    drawn = {label: _points(curve, across, up) for label, curve in thinned.items()}
    shared = Markup('').join(Markup('<polyline points="{}"/>').format(p) for p in drawn.values())
    hidden = Markup('<svg class="hidden"><defs><g id="{}">{}</g></defs></svg>').format(key, shared)
    axes = _axes(across, up)
    panel = Markup(
        '<figure class="curve"><figcaption>{}</figcaption>'
        '<svg class="box" role="img" aria-label="{}">'
        '{}<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">'
        '<use class="others" href="#{}"/><polyline class="this" points="{}"/></svg></svg></figure>'
    )
    panels = (panel.format(label, label, axes, key, line) for label, line in drawn.items())
    return hidden + Markup('<div class="panels">{}</div>').format(Markup('').join(panels))


def thin(curve: Curve) -> Curve:
    """A curve of at most `POINTS` points: the means of neighbours."""
    steps = sorted(step for step in curve if math.isfinite(curve[step]))
    size = -(-len(steps) // POINTS) or 1
    groups = (steps[i : i + size] for i in range(0, len(steps), size))
    return {round(statistics.mean(g)): statistics.mean(curve[s] for s in g) for g in groups}


def _points(curve: Curve, across: Scale, up: Scale) -> str:
    return ' '.join(f'{across.at(s):g},{100 - up.at(v):g}' for s, v in sorted(curve.items()))


def _axes(across: Scale, up: Scale) -> Markup:
    sides = Markup('').join(
        Markup('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>'
               '<text class="up" x="-6" y="{0}%" dy="4">{1:.4g}</text>').format(100 - up.at(t), t)
        for t in up.ticks
    )  # fmt: skip
    below = Markup('').join(
        Markup('<text x="{}%" y="100%" dy="16">{}</text>').format(across.at(t), _short(t))
        for t in (across.ticks[0], across.ticks[-1])
    )
    return sides + below


def _short(step: float) -> Markup:
    return escape(f'{step / 1000:g}k' if step >= 10_000 else f'{step:g}')


class Picture(NamedTuple):
    """An image as a data URI, and its caption."""

    caption: str
    uri: str
    width: int
    height: int


def embed(files: Sequence[tuple[str, Path]]) -> list[Picture]:
    """Encode images as WebP within the bytes that the page has for them.

    Args:
        files: Captions and files.

    Raises:
        UserError: A file is not an image.
    """
    room = min(PICTURE, PICTURES // max(1, len(files)))
    return [_embed(caption, path, room) for caption, path in files]


def _embed(caption: str, path: Path, room: int) -> Picture:
    try:
        image = Image.open(path).convert('RGB')
    except OSError as error:
        raise UserError(f'{path}: not a picture that can be read') from error
    image.thumbnail((WIDTH, 4 * WIDTH))
    while len(data := _webp(image)) > room:
        image = image.resize((max(1, image.width * 4 // 5), max(1, image.height * 4 // 5)))
    uri = f'data:image/webp;base64,{base64.b64encode(data).decode()}'
    return Picture(caption, uri, *image.size)


def _webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, 'WEBP', quality=80)
    return file.getvalue()
