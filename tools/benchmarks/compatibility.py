"""Models of timm, torchvision, transformers, MONAI and others under `convert_norm`."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from benchmarks import output
from benchmarks.batch_statistics import batch_statistics
from benchmarks.libraries import LIBRARIES, Case
from benchmarks.limits import Limits, limited
from sbzoo.errors import UserError
from sbzoo.files import write
from sbzoo.norm import build_norm, convert_norm
from sbzoo.norm.convert import Conversion
from sbzoo.paths import ROOT
from sbzoo.tools.cli import positive_int

SUMMARY = output.RESULTS / 'compatibility.json'
SPECS = 'gn', 'hybrid'
CHECKS = {
    'named': 'every norm that mixes a batch is replaced or named',
    'keys': 'weights and biases keep their keys',
    'again': 'a second call changes nothing',
    'back': 'back to bn, it evaluates as before',
    'runs': 'a training step at batch size 1 is finite',
}
CLOSE = 1e-3  # of the largest value
LIMITS = Limits(gigabytes=4, seconds=90)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which libraries, and how many models side by side."""
    add = parser.add_argument
    add('--jobs', type=positive_int, default=2, help='models side by side, a thread each')
    add('--libraries', nargs='+', choices=LIBRARIES, default=LIBRARIES, metavar='NAME')
    add('--dir', type=Path, default=ROOT / 'work_dirs/compatibility', help='kept and gone on with')
    output.add_out(parser, SUMMARY.name)


def run(args: argparse.Namespace) -> None:
    """Check what is not checked yet; what is done is on record at every moment."""
    args.dir.mkdir(parents=True, exist_ok=True)
    os.environ.update(HF_HUB_OFFLINE='1', YOLO_OFFLINE='1')
    torch.set_num_threads(1)
    here = [name for name in args.libraries if find_spec(LIBRARIES[name].package)]
    for name in set(args.libraries) - set(here):
        print(f'{name}: not installed, skipped')
    file = args.dir / 'models.jsonl'
    results = output.read_lines(file)
    todo = _names(here, {(r['library'], r['model']) for r in results})
    for ended in limited(LIMITS, check, todo, args.jobs):
        library, model = ended.arguments
        results.append(dict(library=library, model=model, **ended.or_reason('unchecked')))
        output.add_line(file, results[-1])
        print(_in_short(results[-1]), flush=True)
        write(args.out, json.dumps(summary(results), indent=1).encode() + b'\n')
    print(f'\n{table(summary(results))}')
    output.close(args.out)


def _names(libraries: Sequence[str], done: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """What is to be checked, a model of each library after another."""
    for library in libraries:
        import_module(LIBRARIES[library].package)
    groups = [[(name, model) for model in LIBRARIES[name].names()] for name in libraries]
    return (key for key in output.in_turn(groups) if key not in done)


def _in_short(result: dict) -> str:
    wrong = {k: v for k in SPECS for v in (result.get(k, {}).get('failed'),) if v}
    return f'{result["library"]} {result["model"]}: {result.get("unchecked") or wrong or "checked"}'


def check(library: str, name: str) -> dict:
    """What comes of a model under each spec.

    Returns:
        By spec `replaced`, `left` (a count for each kind and reason), `tried` (the checks) and
        `failed` (the reason by check); or `unchecked` and the reason.
    """
    build = partial(_build, library, name)
    try:
        kept = _nothing_to_replace(build().model)
        return {spec: kept or converted(build, spec) for spec in SPECS}
    except Exception as error:
        return dict(unchecked=output.line_of(error))


def _nothing_to_replace(model: nn.Module) -> dict | None:
    """The result for a model that has no norm, or none that can be replaced."""
    try:
        record = convert_norm(model, SPECS[0])
    except UserError:
        return dict(replaced=0, left={}, tried=[], failed={})
    return None if record.changed else dict(replaced=0, left=_left(record), tried=[], failed={})


def _left(record: Conversion) -> dict[str, int]:
    return Counter(f'{left.kind}: {left.reason}' for left in record.left)


def _build(library: str, name: str) -> Case:
    torch.manual_seed(0)
    return LIBRARIES[library].build(name)


def converted(build: Callable[[], Case], spec: str) -> dict:
    """Convert one model that runs as it is, and check what became of it."""
    case = build()
    vary_norms(case.model, spec)
    before = outputs(case, training=False)
    keys, old = list(case.model.state_dict()), dict(case.model.named_modules())
    record = convert_norm(case.model, spec)
    checks = dict(
        named=partial(_named, record),
        keys=partial(_keys, record, keys),
        again=partial(_again, record),
    )
    if all(is_batch_norm(old[change.name]) for change in record.changed):
        checks['back'] = partial(_back, case, before, build, spec)
    checks['runs'] = partial(_runs, case, spec)
    tried = {name: _failure(test) for name, test in checks.items()}
    if tried.get('runs') and (other := _failure(partial(_train, build()))):
        tried['runs'] = f'{tried["runs"]} (and before conversion: {other})'
    return dict(
        replaced=len(record.changed),
        left=_left(record),
        tried=list(tried),
        failed={name: reason for name, reason in tried.items() if reason},
    )


def _failure(test: Callable[[], str | None]) -> str | None:
    """What is wrong, an error included."""
    try:
        return test()
    except Exception as error:
        return output.line_of(error)


def vary_norms(model: nn.Module, spec: str) -> None:
    """Give batch norms weights, and statistics if the spec keeps them, unlike those of new ones."""
    varied = {'weight': 1.0, 'bias': 0.0}
    if build_norm(spec, 8).running_var is not None:
        varied |= {'running_mean': 0.0, 'running_var': 1.0}
    with torch.no_grad():
        for norm in filter(is_batch_norm, model.modules()):
            for key, value in varied.items():
                if (tensor := getattr(norm, key, None)) is not None:
                    tensor.copy_(value + 0.1 * (torch.rand_like(tensor) - 0.5))


def is_batch_norm(norm: nn.Module) -> bool:
    """Whether it normalises by running statistics in evaluation, and does no more."""
    is_plain = not type(norm).__name__.startswith(('EvoNorm', 'FilterResponse'))
    return is_plain and getattr(norm, 'running_var', None) is not None


def outputs(case: Case, training: bool) -> list[Tensor]:
    """The floating tensors that a model returns; random numbers are drawn anew."""
    torch.manual_seed(0)
    case.model.train(training)
    with torch.set_grad_enabled(training):
        found = tree_leaves(_as_tree(case.model(*case.args)))
    return [t for t in found if isinstance(t, Tensor) and t.is_floating_point()]


def _as_tree(found: Any) -> Any:
    return dict(found) if hasattr(found, 'keys') else found


def _named(record: Conversion) -> str | None:
    named = {left.name for left in record.left}
    silent = [x for x in batch_statistics(record.model, record.spec) if x.split()[0] not in named]
    return ', '.join(silent) or None


def _keys(record: Conversion, before: list[str]) -> str | None:
    """Whether keys are lost beside those in the record, or weights or biases at all."""
    dropped = set(chain.from_iterable(change.dropped for change in record.changed))
    allowed = dropped - {'weight', 'bias'}
    after = record.model.state_dict().keys()
    lost = [key for key in before if key not in after]
    return ', '.join(key for key in lost if key.rpartition('.')[2] not in allowed) or None


def _again(record: Conversion) -> str | None:
    again = convert_norm(record.model, record.spec)
    return str(again) if again.changed else None


def _back(case: Case, before: list[Tensor], build: Callable[[], Case], spec: str) -> str | None:
    """Whether a model is what it was, after batch norm there and back.

    In float64 if not in float32: where scores are nearly equal, another rounding takes other
    queries of a DETR.
    """
    convert_norm(case.model, 'bn')
    if _difference(before, outputs(case, training=False)) is None:
        return None
    model, args = build()
    double = Case(model.double(), tree_map_only(Tensor, _doubled, args))
    vary_norms(model, spec)
    before = outputs(double, training=False)
    convert_norm(model, spec)
    convert_norm(model, 'bn')
    return _difference(before, outputs(double, training=False))


def _doubled(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _difference(before: list[Tensor], after: list[Tensor]) -> str | None:
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape:
            return f'{list(new.shape)} instead of {list(old.shape)}'
        difference, largest = (t.abs().amax() if t.numel() else 0.0 for t in (old - new, old))
        if not difference <= CLOSE * largest:
            return f'differs by {difference:.2g} of {largest:.2g}'
    return None


def _runs(case: Case, spec: str) -> str | None:
    convert_norm(case.model, spec)  # from what it is back to
    return _train(case)


def _train(case: Case) -> str | None:
    """A training step on one sample: what is not finite."""
    made = [t for t in outputs(case, training=True) if t.requires_grad]
    if not all(t.isfinite().all() for t in made):
        return 'output not finite'
    sum(t.float().square().mean() for t in made).backward()
    grads = [(n, p.grad) for n, p in case.model.named_parameters() if p.grad is not None]
    broken = [name for name, grad in grads if not grad.isfinite().all()]
    if not grads:
        return 'no gradients'
    return f'gradient not finite: {broken[0]} and {len(broken) - 1} more' if broken else None


def summary(results: list[dict]) -> dict[str, dict]:
    """Counts by library and spec, and what went wrong by model."""
    by_library = defaultdict(list)
    for result in sorted(results, key=itemgetter('model')):  # they end in any order
        by_library[result['library']].append(result)
    return {name: _of_library(name, by_library[name]) for name in LIBRARIES if name in by_library}


def _of_library(library: str, results: list[dict]) -> dict:
    checked = [result for result in results if 'unchecked' not in result]
    return dict(
        version=version(LIBRARIES[library].package),
        models=len(LIBRARIES[library].names()),
        checked=[result['model'] for result in checked],
        unchecked={r['model']: r['unchecked'] for r in results if 'unchecked' in r},
        specs={spec: _of_spec({r['model']: r[spec] for r in checked}) for spec in SPECS},
    )


def _of_spec(results: dict[str, dict]) -> dict:
    found = results.values()
    left = sum((Counter(f['left']) for f in found), Counter())
    return dict(
        replaced=sum(f['replaced'] for f in found),
        models=sum(f['replaced'] > 0 for f in found),
        left=dict(left.most_common()),
        tried=Counter(check for f in found for check in f['tried']),
        failed={
            check: {name: f['failed'][check] for name, f in results.items() if check in f['failed']}
            for check in CHECKS
        },
    )


def left(found: dict[str, dict]) -> Iterator[str]:
    """A line of Markdown for each kind of norm that is left, and why."""
    for library, of_library in found.items():
        kinds = {k: n for spec in of_library['specs'].values() for k, n in spec['left'].items()}
        for kind, count in kinds.items():
            yield f'- {library}: {count} {kind}'


def failures(found: dict[str, dict]) -> Iterator[str]:
    """A line of Markdown for each reason why models were not checked, or failed a check."""
    for library, of_library in found.items():
        reasons = defaultdict(dict)  # the names are its keys, in their order
        for name, reason in of_library['unchecked'].items():
            reasons[f'not checked, {reason}'][name] = None
        for spec, of_spec in of_library['specs'].items():
            for check, name, reason in _failed(of_spec):
                reasons[f'{spec}, {CHECKS[check]}: {reason}'][name] = None
        for reason, names in reasons.items():
            yield f'- {library}, {", ".join(names)}: {reason}'


def _failed(of_spec: dict) -> Iterator[tuple[str, str, str]]:
    for check, names in of_spec['failed'].items():
        for name, reason in names.items():
            yield check, name, reason


def table(found: dict[str, dict]) -> str:
    """A Markdown table of the counts."""
    heads = ('library', 'models', 'norm', 'norms replaced', 'left', *CHECKS.values())
    lines = [heads, ('---',) * len(heads)]
    for library, of_library in found.items():
        models = f'{len(of_library["checked"])} of {of_library["models"]}'
        for spec, of_spec in of_library['specs'].items():
            lines.append((f'{library} {of_library["version"]}', models, spec, *_cells(of_spec)))
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _cells(found: dict) -> Iterator[str]:
    yield f'{found["replaced"]} in {found["models"]} models'
    yield str(sum(found['left'].values()))
    for check in CHECKS:
        tried = found['tried'].get(check, 0)
        yield f'{tried - len(found["failed"][check])} of {tried}' if tried else ''
