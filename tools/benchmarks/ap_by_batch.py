"""AP against batch size, of a detector with SGD and of one with AdamW, as a picture."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import runs
from sbzoo.files import replacing
from sbzoo.records import Measurement

FILE = 'ap_by_batch.png'
COLOURS = dict(gn='C0', hybrid='C1', bn='C2')
STYLES = {'square root': '-', 'linear': '--'}  # how the learning rate follows the batch size
RECIPE = 8  # the batch size of RTMDet's recipe, where both rules are the same run
Line = Mapping[int, Sequence[float]]  # AP of every seed, by batch size


def draw(retinanet: Iterable[dict], measured: Iterable[Measurement], folder: Path) -> Path:
    """Draw the runs of `retinanet_digits.jsonl` and the study *AdamW* of `batch.jsonl`."""
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, 'RetinaNet, SGD with momentum', _with_sgd(retinanet))
    _panel(right, 'RTMDet, AdamW', _with_adamw(measured))
    left.set_ylabel('AP')
    with replacing(folder / FILE) as file:
        figure.savefig(file, dpi=110)
    return folder / FILE


def _with_sgd(retinanet: Iterable[dict]) -> dict[tuple[str, str], Line]:
    lines = defaultdict(lambda: defaultdict(list))
    for result in retinanet:
        if (norm := runs.norm_of(result)) in COLOURS:
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


def _panel(axes: Axes, title: str, lines: Mapping[tuple[str, str], Line]) -> None:
    for (norm, rule), line in lines.items():
        batches = sorted(line)
        axes.errorbar(
            batches,
            [statistics.mean(line[b]) for b in batches],
            [statistics.stdev(line[b]) if len(line[b]) > 1 else 0 for b in batches],
            label=f'{norm}, {rule}',
            color=COLOURS[norm],
            linestyle=STYLES[rule],
            marker='.',
            capsize=2,
        )
    axes.set(title=title, xlabel='batch size', xscale='log')
    axes.set_xticks(batches := sorted({b for line in lines.values() for b in line}), batches)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize='small')
