"""Render model_cards/results/README.md from the files beside it."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, product
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from benchmarks import (
    compatibility,
    config_runs,
    configs,
    digits,
    droplets,
    labels,
    norm,
    output,
    plots,
    runs,
    stack,
    transfer,
)
from sbzoo.files import write
from sbzoo.paths import ROOT
from sbzoo.records import Measurement
from sbzoo.report import gpu, measurements, studies
from sbzoo.report.measurements import Measured, read_all
from sbzoo.report.tables import ResultTable, body, markdown
from sbzoo.studies import NAMES, study

TEMPLATE, OF_STUDIES = 'results.md.jinja', 'studies.md.jinja'
*LARGE, SMALL_SHAPE = norm.SHAPES
SMALL = (SMALL_SHAPE,)
STUDIES = ROOT / 'sbzoo/studies/README.md'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the files are."""
    parser.add_argument('--results', type=Path, default=output.RESULTS, metavar='DIR')


def run(args: argparse.Namespace) -> None:
    """Write README.md, the plots that it shows, and the page of the studies."""
    path = args.results / 'README.md'
    write(path, render(args.results).encode())
    retinanet = output.read_lines(args.results / 'retinanet_digits.jsonl')
    drawn = plots.draw(retinanet, read_all(args.results), args.results)
    is_ours = args.results.resolve() == output.RESULTS.resolve()
    studied = STUDIES if is_ours else args.results / 'studies.md'
    write(studied, render_studies(args.results).encode())
    print(f'written: {", ".join(map(str, [path, *drawn, studied]))}')
    print('next:    python tools/report.py')


def render(folder: Path) -> str:
    """All tables with their protocols; what is missing is said to be.

    Raises:
        UserError: A line of a file is broken.
    """
    return _template(TEMPLATE).render(
        **_of_runs(folder),
        **_of_configs(folder),
        **_of_models(folder),
        **_of_measurements(read_all(folder)),
    )


def render_studies(folder: Path) -> str:
    """The page of the studies, with their verdicts.

    Raises:
        UserError: A line of their file is broken.
    """
    advising = ', '.join(f'`{name}`' for name in NAMES if study(name).advise)
    verdicts = body(studies.verdicts(read_all(folder)['studies']))
    return _template(OF_STUDIES).render(verdicts=verdicts, advising=advising)


def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _of_runs(folder: Path) -> dict[str, Any]:
    ap, moved = (
        output.read_lines(folder / f'{name}_digits.jsonl') for name in ('retinanet', 'transfer')
    )
    return dict(
        ap_table=digits.table(ap, digits.NORMS, digits.BATCHES) if ap else _not_yet('digits'),
        transfer_table=transfer.table(moved) if moved else _not_yet('transfer'),
        detectors=_if_complete(_detectors, ap),
        transfers=_if_complete(_transfers, moved),
    )


def _not_yet(*benches: str) -> str:
    commands = ' and '.join(f'`python tools/bench.py {bench}`' for bench in benches)
    return f'Not measured yet, by {commands}.'


def _if_complete(quoted: Callable[[list[dict]], dict], results: list[dict]) -> dict:
    """The figures that are quoted of some runs; none where runs are missing."""
    try:
        return quoted(results)
    except KeyError:
        return {}


def _means(results: list[dict], *keys: Callable[[dict], Any]) -> dict[tuple, float]:
    """Mean AP by norm and ..."""
    found = defaultdict(list)
    for result in results:
        found[runs.norm_of(result), *(key(result) for key in keys)].append(runs.ap(result))
    return {key: statistics.mean(values) for key, values in found.items()}


def _detectors(results: list[dict]) -> dict[str, Any]:
    means = _means(results, itemgetter('images_a_step'))
    others = [norm for norm in digits.NORMS if norm != 'hybrid']
    lead = {b: means['hybrid', b] - max(means[norm, b] for norm in others) for b in (1, 2)}
    behind = {b: max(0, means['gn', b] - means['bn', b]) for b in (1, 2)}
    alphas = [a for r in results if r['images_a_step'] in lead for a in r['alphas'].values()]
    moved = sum(abs(a - 0.5) > 0.1 for a in alphas) / len(alphas)
    return dict(
        lead={b: f'{value:.3f}' for b, value in lead.items()},
        bn_behind_gn={b: f'{value:.3f}' if value else 'nothing' for b, value in behind.items()},
        alphas=dict(least=f'{min(alphas):.2f}', most=f'{max(alphas):.2f}', moved=f'{moved:.0%}'),
    )


def _transfers(results: list[dict]) -> dict[str, str]:
    means = _means(results, itemgetter('start'), itemgetter('batch'))
    lost = [means['bn', 'trained', 0] - means[n, 'calibrated', 0] for n in transfer.SPECS]
    ahead = [
        means[n, 'calibrated', b] - means[n, 'copied', b] for n, b in product(('gn', 'ln'), (1, 2))
    ]
    return dict(lost=_range(lost, 3), ahead=_range(ahead, 3))


def _range(numbers: Sequence[float], decimals: int) -> str:
    return f'{min(numbers):.{decimals}f} to {max(numbers):.{decimals}f}'


def _of_configs(folder: Path) -> dict[str, str]:
    path = folder / configs.SUMMARY.name
    if not path.exists():
        return dict(configs_table=_not_yet('configs'), packages='', mmdet='')
    found = json.loads(path.read_text())
    reasons = next(iter(found['norms'].values()))['exceptions']
    wanted = Counter({r[9:]: len(names) for r, names in reasons.items() if r[:9] == 'package: '})
    return dict(
        configs_table=configs.table(found['norms']),
        packages=', '.join(f'{name} ({count})' for name, count in wanted.most_common()),
        mmdet=found['mmdet'],
    )


def _of_models(folder: Path) -> dict[str, Any]:
    """What was tried on models of other libraries, and on runs of MMDetection's."""
    libraries, runs_of = (
        json.loads(path.read_text()) if (path := folder / bench.SUMMARY.name).exists() else None
        for bench in (compatibility, config_runs)
    )
    return dict(
        models_table=compatibility.table(libraries) if libraries else _not_yet('compatibility'),
        models_left=[*compatibility.left(libraries or {})],
        models_failed=[*compatibility.failures(libraries or {})],
        runs_table=config_runs.table(runs_of) if runs_of else _not_yet('config_runs'),
        runs_failed=[*config_runs.failures(runs_of)] if runs_of else [],
    )


def _of_measurements(measured: Measured) -> dict[str, Any]:
    return dict(
        droplets_table=_tables(droplets.tables(measured['droplets']), 'droplets'),
        labels_table=_tables(labels.tables(measured['labels']), 'labels'),
        norm_table=_tables(measurements.norm_times(measured, compiled=False), 'norm'),
        compiled_table=_tables(measurements.norm_times(measured, compiled=True), 'norm --compile'),
        ratio=partial(_ratio, _layer_times(measured['norm'])),
        small=SMALL,
        commands_table=_tables(measurements.training_and_ap(measured), 'train', 'ap'),
        batch_table=_tables(measurements.small_batches(measured), 'batch'),
        gan_table=_tables(measurements.gans(measured), 'gan'),
        light_table=_tables(measurements.own_light(measured), 'light'),
        conversion_table=_tables(measurements.converted(measured), 'conversion'),
        fine_tuning_table=_tables(measurements.fine_tuned(measured), 'fine_tuning'),
        ranks_table=_tables(measurements.scaling(measured), 'ranks'),
        padding_table=_tables(measurements.padded_norms(measured), 'padding'),
        memory_table=_tables(measurements.memory(measured), 'memory'),
        stack_table=_tables(stack.tables(measured['stack']), 'stack'),
        fid_table=_tables(measurements.fid(measured), 'fid'),
        gpu_tables='\n\n'.join(map(markdown, gpu.tables(measured['gpu']))),
        studies=[*map(_study, studies.by_study(measured['studies']).values())],
    )


def _study(measurements: Sequence[Measurement]) -> dict[str, str]:
    name, found = measurements[0].row['study'], studies.tables(measurements)
    bodies = '\n\n'.join(map(body, found))
    return dict(name=name, claim=study(name).claim, tables=bodies, note=found[0].note)


def _tables(tables: list[ResultTable], *benches: str) -> str:
    shown = [
        '\n\n'.join([note, *map(body, of_note)])
        for note, of_note in groupby(tables, attrgetter('note'))
    ]
    return '\n\n'.join(shown) or _not_yet(*benches)


def _layer_times(measured: list[Measurement]) -> dict[tuple, dict[str, float]]:
    """Milliseconds of each layer, by machine, shape and memory format."""
    found = defaultdict(dict)
    for m in measured:
        name = m.row['layer'] + ' compiled' * m.row['compiled']
        found[m.where, tuple(m.row['shape']), m.row['memory_format']][name] = m.figures['ms']
    return found


def _ratio(times: dict[tuple, dict], layer: str, base: str, shapes: Sequence = LARGE) -> str:
    """How many times as long a layer takes as another, over machines and some of the shapes."""
    ratios = [
        by_name[layer] / by_name[base]
        for (_, shape, _), by_name in times.items()
        if shape in shapes and {layer, base} <= by_name.keys()
    ]
    return _range(ratios, 2) if ratios else ''
