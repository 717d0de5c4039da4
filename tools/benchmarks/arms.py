"""Studies that compare training or test runs, seed by seed; each result is recorded at once."""

from __future__ import annotations

import argparse
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mmengine.runner import find_latest_checkpoint

from benchmarks import output, runs
from sbzoo import records
from sbzoo.records import Measurement
from sbzoo.report.measurements import studies

RECORDING = threading.Lock()  # runs end side by side
RUNNING: dict[Path, threading.Lock] = defaultdict(threading.Lock)  # a run of two studies


class Arm(NamedTuple):
    """A cell of a study: what is compared, under which condition, and how it is run.

    Attributes:
        study: Its name.
        name: What is compared: the row.
        condition: Under which condition: the column.
        command: A tool with its config and options.
        metrics: What of its result goes on record.
        seeds: Those of the command line, unless given.
        ranks: Processes that train together.
        after: A training whose weights it starts from.
    """

    study: str
    name: str
    condition: str
    command: tuple
    metrics: tuple[str, ...] = ('coco/bbox_mAP',)
    seeds: tuple[int, ...] | None = None
    ranks: int = 1
    after: tuple | None = None


Studies = Mapping[str, Callable[[], Iterator[Arm]]]


def add_arguments(parser: argparse.ArgumentParser, name: str, studies: Studies) -> None:
    """What can be left out or done side by side."""
    add = parser.add_argument
    add('--studies', nargs='+', default=[*studies], choices=studies, metavar='STUDY')
    runs.add_arguments(parser, name, f'{name}.jsonl')


def run(args: argparse.Namespace, defined: Studies) -> None:
    """Run what has not been run yet, and show the tables of it all."""
    run_arms(args, [arm for study in args.studies for arm in defined[study]()])


def run_arms(args: argparse.Namespace, arms: Iterable[Arm]) -> None:
    """Run those that have not been run yet, and show their tables."""
    grid = [(args, arm, seed) for arm in arms for seed in arm.seeds or args.seeds]
    output.show(args.out, studies(runs.run_all(_measure, grid, args.jobs)))


def _measure(args: argparse.Namespace, arm: Arm, seed: int) -> Measurement:
    """One run; one that was cut off goes on, and one that another study has had is not repeated."""
    folder = folder_of(args.dir, arm, seed)
    with RUNNING[folder]:
        result = _result(folder, arm, seed)
    row = dict(study=arm.study, arm=arm.name, condition=arm.condition, seed=seed)
    figures = {name.removeprefix('coco/'): result['metrics'][name] for name in arm.metrics}
    protocol = {'images': result['data']['images']}
    if arm.command[0] == 'train':
        protocol |= {'epochs': result['epochs']}
    measured = records.measurement(row, figures, protocol, ('mmdet',), threads=arm.ranks)
    with RECORDING:
        records.record(args.out, [measured])
    return measured


def folder_of(parent: Path, arm: Arm, seed: int) -> Path:
    """Where a run is: by what is run, as studies share runs."""
    words = *arm.command, *(('after', *arm.after) if arm.after else ()), f'seed{seed}'
    return parent / re.sub(r'[^\w.=+-]+', '_', ' '.join(map(str, words)))


def _result(folder: Path, arm: Arm, seed: int) -> dict:
    tool, config, *options = arm.command
    if tool == 'train':
        options += '--resume', '--seed', seed
    if arm.after:
        first = folder / 'first'
        runs.result_of(first, *arm.after, '--resume', '--seed', seed)
        options += '--load-from', find_latest_checkpoint(str(first))
    return runs.result_of(folder, tool, config, *options, ranks=arm.ranks)
