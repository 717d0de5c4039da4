"""Finished runs, read from result files and work directories."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sbzoo.engine.options.parts import norm_of
from sbzoo.engine.result import FILE as RESULT
from sbzoo.engine.result import SCHEDULE
from sbzoo.engine.visualize import Curve, read_curves
from sbzoo.errors import UserError
from sbzoo.zoo.evaluate import METRICS, metric_name
from sbzoo.zoo.publish import read_run

# Of a config: model, norm, batch, and data set where the model has configs for several.
NAME = re.compile(r'(.+?)(?:_([a-z0-9]+(?:_ws)?))?_b\d+(_[a-z]+)?')
ASIDE = ('-std', '-real')  # suffixes of metrics that qualify another
GENERATED = 'LatentDataset'  # what an unconditional generator is tested on
TRANSFER = (
    'An epoch more from a trained batch norm detector, with learning rate '
    '0.001 x batch size; random weights have one epoch, with 0.01 x batch size'
)
STARTS = {  # of a run of the transfer benchmark, which its result names; those of others are ''
    '': '',
    'trained': 'as trained',
    'updated': 'statistics of each batch, as in training',
    'norm_eval': 'statistics frozen in the backbone (norm_eval=True)',
    'frozen': 'statistics, weight and bias frozen everywhere (fbn)',
    'copied': 'converted, weight and bias copied',
    'calibrated': 'converted and calibrated',
    'scratch': 'random weights',
}


class TrainingRun(NamedTuple):
    """A training run with the protocol behind its metrics.

    Attributes:
        place: Where it was read.
        source: The result file or the group of work directories that it is compared within.
        variant: What its norm began from, where that differs within the source.
        batch: The batch size; 0 where nothing was trained.
        protocol: What it has in common with the runs that it is compared with.
        schedule: What runs that differ in their seed alone have in common too.
        suffix: What the name of its config ends with after the batch, such as `_light`.
        metrics: By the names that model cards have.
        folder: Of a work directory.
    """

    place: str
    source: str
    task: str
    model: str
    norm: str
    variant: str
    batch: int
    seed: int
    protocol: str
    schedule: tuple
    suffix: str
    metrics: dict[str, float]
    alphas: dict[str, float]
    folder: Path | None = None

    @property
    def label(self) -> str:
        """Its norm, and what that began from."""
        return f'{self.norm or "none"}, {self.variant}' if self.variant else self.norm or 'none'

    @property
    def name(self) -> str:
        """The name that a card of it has."""
        norm = f'_{self.norm}' if self.norm else ''
        return f'{self.model}{norm}_b{self.batch}{self.suffix}'


Experiment = dict[tuple[str, int], list[TrainingRun]]  # the seeds of a label and a batch
Experiments = dict[tuple[str, str, str, str], Experiment]  # by source, task, model and protocol


def read_results(path: Path) -> list[TrainingRun]:
    """The runs of a result file, one a line.

    Raises:
        UserError: A line is not the result of a run.
    """
    lines = path.read_text(encoding='utf-8').splitlines()
    return [_run(line, f'{path.name}:{i}', path.name) for i, line in enumerate(lines, start=1)]


def read_work_dir(folder: Path) -> TrainingRun:
    """The run of a work directory.

    Raises:
        UserError: A file is broken, or its config is missing.
    """
    path = folder / RESULT
    run = _run(path.read_text(encoding='utf-8'), str(path), 'work directories')
    return run._replace(norm=norm_of(read_run(folder).cfg.model), folder=folder)


def curves_of(folder: Path) -> dict[str, Curve]:
    """What was logged in a work directory, by name.

    Raises:
        UserError: A log is broken.
    """
    try:
        return read_curves(folder)
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f'{folder}: scalars.json is broken ({_reason(error)})') from error


def _run(text: str, place: str, source: str) -> TrainingRun:
    try:
        return _parse(json.loads(text), place, source)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{place}: not the result of a run ({_reason(error)})') from error


def _reason(error: Exception) -> str:
    return f'no {error}' if isinstance(error, KeyError) else str(error)


def _parse(line: dict[str, Any], place: str, source: str) -> TrainingRun:
    match = NAME.fullmatch(line['config'])
    model, norm, suffix = match.groups(default='') if match else (line['config'], '', '')
    start = line.get('start', '')
    return TrainingRun(
        place,
        source,
        task=_task(line),
        model=model,
        norm=line.get('norm') or norm,
        variant=STARTS[start],
        batch=int(line['batch'] if start else line['images_a_step']),
        seed=int(line['seed']),
        protocol=_protocol(line),
        schedule=tuple(str(line[key]) for key in SCHEDULE),
        suffix=suffix,
        metrics=dict(_metrics(line['metrics'])),
        alphas={name: _finite(name, alpha) for name, alpha in line['alphas'].items()},
    )


def _protocol(line: dict[str, Any]) -> str:
    name, images = line['data']['name'], line['data']['images']
    tested = f'{images} samples' if name == GENERATED else f'{images} images of {name}'
    trained_on = f' on {line["trained_on"]}' if 'trained_on' in line else ''  # not in old results
    course = TRANSFER if 'start' in line else f'{line["epochs"]} epochs{trained_on}'
    return f'{course}; {tested}'


def _task(line: dict[str, Any]) -> str:
    if any(name.startswith('coco/') for name in line['metrics']):
        return 'object-detection'
    generated = line['data']['name'] == GENERATED
    return 'unconditional-image-generation' if generated else 'image-to-image'


def _metrics(metrics: dict[str, float]) -> list[tuple[str, float]]:
    names = {k: metric_name(k) for k in metrics}
    shown = (k for k in metrics if k in METRICS or not k.startswith('coco/'))
    return [(names[k], _finite(k, metrics[k])) for k in shown if not names[k].endswith(ASIDE)]


def _finite(name: str, value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f'{name} is {value}')
    return float(value)


def experiments(runs: Sequence[TrainingRun]) -> Experiments:
    """Group runs that are comparable, for one table each.

    Raises:
        UserError: Runs of one norm and batch differ in more than their seed, or not even in that.
    """
    found: Experiments = defaultdict(lambda: defaultdict(list))
    norms, variants = list(dict.fromkeys(run.norm for run in runs)), list(STARTS.values())
    for run in sorted(runs, key=lambda r: (norms.index(r.norm), variants.index(r.variant))):
        seeds = found[run.source, run.task, run.model, run.protocol][run.label, run.batch]
        for other in seeds:
            if other.seed == run.seed:
                raise UserError(
                    f'{run.place} and {other.place}: both are {run.label} at batch '
                    f'{run.batch} with seed {run.seed} by one protocol; give one of them'
                )
            if other.schedule != run.schedule:
                raise UserError(f'{run.place} and {other.place}: they differ in more than the seed')
        seeds.append(run)
    return found
