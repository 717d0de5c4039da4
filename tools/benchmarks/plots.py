"""AP against batch size and against the strength of the light, as pictures."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import light, runs
from sbzoo.files import replacing
from sbzoo.records import Measurement

BY_BATCH, OWN_LIGHT = 'ap_by_batch.png', 'light.png'
COLOURS = {'gn': 'C0', 'hybrid': 'C1', 'bn': 'C2', 'in': 'C3', 'ln': 'C4'}
STYLES = {'square root': '-', 'linear': '--'}  # how the learning rate follows the batch size
RECIPE = 8  # the batch size of RTMDet's recipe, where both rules are the same run
Line = Mapping[float, Sequence[float]]  # AP of every seed, by what is across


class Panel(NamedTuple):
    """Lines by norm and by what else tells them apart, which is in the legend."""

    title: str
    across: str
    lines: Mapping[tuple[str, str], Line]
    scale: str = 'log'


def draw(retinanet: Iterable[dict], measured: Mapping, folder: Path) -> list[Path]:
    """Draw the runs of `retinanet_digits.jsonl`, and the studies of `batch` and `light`."""
    by_batch = (
        Panel('RetinaNet, SGD with momentum', 'batch size', _with_sgd(retinanet)),
        Panel('RTMDet, AdamW', 'batch size', _with_adamw(measured['batch'])),
    )
    batches = {f'batch {batch}': batch for batch in light.BATCHES}
    by_images = _of_study('own light', batches, measured['light'])
    by_strength = _of_study('strength', light.STRENGTHS, measured['light'])
    own_light = (
        Panel('At equal images', 'batch size', by_images),
        Panel('At batch size 2', 'strength of the light', by_strength, 'linear'),
    )
    return [_draw(by_batch, folder / BY_BATCH), _draw(own_light, folder / OWN_LIGHT)]


def _with_sgd(retinanet: Iterable[dict]) -> dict[tuple[str, str], Line]:
    lines = defaultdict(lambda: defaultdict(list))
    for result in retinanet:
        if (norm := runs.norm_of(result)) in ('gn', 'hybrid', 'bn'):
            lines[norm, 'linear'][result['images_a_step']].append(runs.ap(result))
    return lines


def _with_adamw(measured: Iterable[Measurement]) -> dict[tuple[str, str], Line]:
    lines = defaultdict(lambda: defaultdict(list))
    for m in measured:
        if m.row['study'] == 'AdamW':
            norm, rule = m.row['arm'].split(', ')
            batch = int(m.row['condition'].removeprefix('batch '))
            for drawn in STYLES if batch == RECIPE else (rule,):
                lines[norm.rstrip('8'), drawn][batch].extend(m.figures.values())
    return lines


def _of_study(
    study: str, conditions: Mapping[str, float], measured: Iterable[Measurement]
) -> dict[tuple[str, str], Line]:
    lines = defaultdict(lambda: defaultdict(list))
    for m in measured:
        arm, condition = m.row['arm'], m.row['condition']
        if m.row['study'] == study and arm in COLOURS and condition in conditions:
            lines[arm, ''][conditions[condition]].extend(m.figures.values())
    return lines


def _draw(panels: Sequence[Panel], path: Path) -> Path:
    figure = Figure(figsize=(10, 3.6), layout='constrained')
    all_axes = figure.subplots(1, len(panels), sharey=True)
    for axes, panel in zip(all_axes, panels, strict=True):
        _fill(axes, panel)
    all_axes[0].set_ylabel('AP')
    with replacing(path) as file:
        figure.savefig(file, dpi=110)
    return path


def _fill(axes: Axes, panel: Panel) -> None:
    for (norm, rule), line in panel.lines.items():
        across = sorted(line)
        axes.errorbar(
            across,
            [statistics.mean(line[x]) for x in across],
            [statistics.stdev(line[x]) if len(line[x]) > 1 else 0 for x in across],
            label=f'{norm}, {rule}' if rule else norm,
            color=COLOURS[norm],
            linestyle=STYLES.get(rule, '-'),
            marker='.',
            capsize=2,
        )
    axes.set(title=panel.title, xlabel=panel.across, xscale=panel.scale)
    axes.set_xticks(ticks := sorted({x for line in panel.lines.values() for x in line}), ticks)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if panel.lines:
        axes.legend(fontsize='small', loc='center left', bbox_to_anchor=(1, 0.5))
