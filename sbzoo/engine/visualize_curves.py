"""The course of a training as a picture."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sbzoo.files import write

Curve = dict[int, float]  # value by step


def read_curves(work_dir: str | Path) -> dict[str, Curve]:
    """What mmengine logged of the training steps in a work directory, by name.

    A run that was resumed has several logs: of a step that was done twice, the later counts.
    """
    curves: dict[str, Curve] = defaultdict(dict)
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            record = json.loads(line)
            step = record.pop('step')
            for name, value in record.items():
                curves[name][step] = value
    return curves


def draw_curves(work_dir: str | Path) -> Path | None:
    """Draw losses, gradient noise scale and alphas to `curves.png`; None if none was logged."""
    curves = read_curves(work_dir)
    of_players = {name[5:]: curve for name, curve in curves.items() if name.startswith('loss_')}
    panels = {
        'loss': {'': curves['loss']} if 'loss' in curves else of_players,
        'noise scale (images)': {'': curves['noise_scale']},
        'alpha': {n[6:]: curve for n, curve in curves.items() if n.startswith('alpha/')},
    }
    panels = {label: lines for label, lines in panels.items() if any(lines.values())}
    if not panels:
        return None
    figure = Figure(figsize=(8, 2.6 * len(panels)), layout='constrained')
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, (label, lines) in zip(axes, panels.items(), strict=True):
        _draw(panel, label, lines)
    axes[-1].set_xlabel('step')
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    path = Path(work_dir) / 'curves.png'
    write(path, picture.getvalue())
    return path


def _draw(axes: Axes, label: str, lines: dict[str, Curve]) -> None:
    """One panel; layers of one part of the model (backbone, neck, ...) share a colour."""
    parts = list(dict.fromkeys(layer.split('.')[0] for layer in lines))
    for layer, curve in lines.items():
        part = layer.split('.')[0]
        axes.plot(*zip(*sorted(curve.items()), strict=True), f'C{parts.index(part)}.-', lw=1)
    if len(parts) > 1:
        handles = [axes.plot([], [], f'C{index}')[0] for index in range(len(parts))]
        axes.legend(handles, parts, loc='upper left', fontsize='small')
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
