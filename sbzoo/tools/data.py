"""Check a data set for detectors and show what is in it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sbzoo.paths import command
from sbzoo.tools import cli

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from sbzoo.data.summary import SplitSummary

EXAMPLES = """
The folder is in the COCO, the YOLO or the Pascal VOC format, and is checked as for training. What
is malformed is listed and ends with status 1, as do pictures that are in both splits.

Padding is the expected share of a batch of two that is not picture, over random pairs of one
orientation: as the files are, and scaled into 1333 x 800, as most configs do. Copies are pictures
with the bytes of another of their split.

examples:
  python tools/data.py /my/coco
  python tools/data.py /my/yolo/data.yaml
"""
LEGEND = 'lengths in pixels, as least, quartiles and most'
SHOWN = 10  # groups of duplicates
CONFIG = 'coco/retinanet_r50_gn_b2.py'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the tool."""
    parser.add_argument('dir', metavar='DIR', help='the folder, or a data.yaml')
    cli.add_data_options(parser)


def main(args: argparse.Namespace) -> None:
    from rich.console import Console

    from sbzoo.data.detection_folder import read_detection_folder
    from sbzoo.data.summary import duplicates, summaries
    from sbzoo.errors import UserError

    folder = read_detection_folder(args.dir, args.drop_empty_boxes, allow_leaks=True)
    splits = summaries(folder)
    groups = duplicates(splits)
    console = Console(highlight=False, markup=False)
    console.print(f'{folder.root}: {folder.kind} format; {LEGEND}', soft_wrap=True)
    console.print(overview(splits, groups))
    console.print(classes(splits))
    console.print(imbalance(splits[0]), soft_wrap=True)
    for line in listed(groups, str(folder.root)):
        console.print(line, soft_wrap=True)
    leaked = sum(map(is_leak, groups))
    if leaked and not args.allow_leaks:
        raise UserError(
            f'{folder.root}: {leaked} picture{"s are" if leaked > 1 else " is"} in both splits, so '
            'validation would not be of new ones (--allow-leaks lets it pass)'
        )
    words = f'sbzoo::{CONFIG}', '--data', args.dir
    console.print(f'next:    {command("train", *words)}', soft_wrap=True)


def overview(splits: tuple[SplitSummary, ...], groups: list) -> Table:
    """A row for each measure, a column for each split."""
    from rich.table import Table

    table = Table('', *(split.name for split in splits))
    measured = [measures(split, groups) for split in splits]
    for name in measured[0]:
        table.add_row(name, *(of[name] for of in measured))
    return table


def measures(split: SplitSummary, groups: list) -> dict[str, str]:
    """What is shown of a split."""
    from sbzoo.data.summary import HUGE, SCALE, TINY, padding, scaled

    own = [sum(name == split.name for name, _ in group) for group in groups]
    longer, shorter = SCALE
    return {
        'pictures': f'{len(split.paths):,}',
        'without boxes': f'{split.empty:,}',
        'copies': f'{sum(max(count - 1, 0) for count in own):,}',
        'width': spread(split.sizes[:, 0], '.0f'),
        'height': spread(split.sizes[:, 1], '.0f'),
        'width / height': spread(split.aspect_ratios, '.2f'),
        'padding': f'{padding(split.sizes):.1%}',
        f'padding in {longer} x {shorter}': f'{padding(scaled(split.sizes)):.1%}',
        'boxes': f'{len(split.boxes):,}',
        'root of box area': spread(split.boxes.prod(axis=1) ** 0.5, '.0f'),
        f'with a side below {TINY}': f'{split.tiny:,}',
        f'above {HUGE:.0%} of picture': f'{split.huge:,}',
    }


def spread(values: np.ndarray, form: str) -> str:
    """The least, the quartiles and the most; one number if they are equal."""
    import numpy as np

    if not len(values):
        return '-'
    shown = [format(v, form) for v in np.percentile(values, (0, 25, 50, 75, 100))]
    return shown[0] if len(set(shown)) == 1 else ' '.join(shown)


def classes(splits: tuple[SplitSummary, ...]) -> Table:
    """The boxes of each class, most first, and their share of a split."""
    from rich.table import Table

    counts = [split.boxes_by_class for split in splits]
    table = Table('boxes by class', *(split.name for split in splits))
    order = sorted(range(len(splits[0].classes)), key=lambda i: -counts[0][i])
    for i in order:
        cells = (f'{of[i]:,} ({of[i] / max(sum(of), 1):.1%})' for of in counts)
        table.add_row(splits[0].classes[i], *cells)
    return table


def imbalance(train: SplitSummary) -> str:
    """The most and the least frequent class of the training split."""
    counts = sorted(zip(train.boxes_by_class, train.classes, strict=True))
    (least, rare), (most, common) = counts[0], counts[-1]
    ratio = f' ({most / least:.1f} : 1)' if least else ''
    return f'imbalance: {common} has {most:,} boxes, {rare} {least:,}{ratio}'


def is_leak(group: list[tuple[str, str]]) -> bool:
    """Whether a group of equal pictures is in more than one split."""
    return len({split for split, _ in group}) > 1


def listed(groups: list[list[tuple[str, str]]], root: str) -> Iterator[str]:
    """A line for each of the first groups of equal pictures, those in both splits first."""
    for group in sorted(groups, key=is_leak, reverse=True)[:SHOWN]:
        names = ', '.join(f'{os.path.relpath(path, root)} ({split})' for split, path in group)
        yield f'same picture: {names}'
    if len(groups) > SHOWN:
        yield f'... and {len(groups) - SHOWN} more groups'
