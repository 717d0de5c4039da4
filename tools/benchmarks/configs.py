"""MMDetection's own configs under `--norm`: whether every batch statistic is replaced."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import mmdet
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.progress import track
from torch import nn

from benchmarks import output
from benchmarks.batch_statistics import batch_statistics
from sbzoo.engine.options.config import load_config, use_sbzoo
from sbzoo.engine.options.norm import set_norm
from sbzoo.files import write
from sbzoo.paths import ROOT
from sbzoo.tools.cli import positive_int

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
PACKAGE = re.compile(
    r"imports': \['(\w+)|No module named '(\w+)|mim install (\w+)|lease install (\w+)"
    r'|(\w+) is not installed'
)
DOWNLOADS = ('URLError', 'LocalEntryNotFoundError')  # of urllib, of huggingface_hub
SUMMARY = output.RESULTS / 'mmdet_configs.json'
OUTCOMES = {
    'turned': 'no batch statistics are left',
    'left': 'some are left',
    'package': 'another package is wanted',
    'download': 'weights are downloaded as the model is built, and there is no network',
    'neither': 'cannot be built without --norm either',
    'broken': 'cannot be built with --norm alone',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which norms, and how many configs side by side."""
    add = parser.add_argument
    add('--norms', nargs='+', default=('gn', 'hybrid'), metavar='SPEC')
    add('--jobs', type=positive_int, default=1, help='processes, of up to 3 GB each')
    add('--dir', type=Path, default=ROOT / 'work_dirs/mmdet_configs', help='kept and gone on with')
    output.add_out(parser, SUMMARY.name)


def run(args: argparse.Namespace) -> None:
    """Check what is not checked yet, print the table and write it to a file."""
    args.dir.mkdir(parents=True, exist_ok=True)
    results = {spec: _checked(spec, args.dir / f'{spec}.jsonl', args.jobs) for spec in args.norms}
    found = {spec: summary(lines) for spec, lines in results.items()}
    print(table(found))
    for spec in found:
        print(f'\n{spec}:', *reasons(found[spec]), sep='\n  ')
    write(args.out, json.dumps(_merged(args.out, found), indent=1).encode() + b'\n')
    output.close(args.out)


def _merged(path: Path, found: dict[str, dict]) -> dict:
    """With what is known of other norms by the same version of MMDetection."""
    old = json.loads(path.read_text()) if path.exists() else {}
    others = old['norms'] if old.get('mmdet') == mmdet.__version__ else {}
    return dict(mmdet=mmdet.__version__, norms=others | found)


def config_names() -> list[str]:
    """Every file of MMDetection's configs, those in `_base_` aside."""
    files = (path.relative_to(CONFIGS) for path in sorted(CONFIGS.rglob('*.py')))
    return [path.as_posix() for path in files if '_base_' not in path.parts]


def _checked(spec: str, file: Path, jobs: int) -> list[dict]:
    """A result for each config, in the order of their names."""
    lines = file.read_text().splitlines() if file.exists() else []
    results = {result['config']: result for result in map(json.loads, lines)}
    names = [name for name in config_names() if name not in results]
    pool = ProcessPoolExecutor(jobs, get_context('spawn'), initializer=_quiet)
    with file.open('a') as output, pool:
        futures = [pool.submit(check, name, spec) for name in names]
        for future in track(as_completed(futures), f'norm {spec}', total=len(names)):
            result = future.result()
            results[result['config']] = result
            print(json.dumps(result), file=output, flush=True)
    return [results[name] for name in sorted(results)]


def _quiet() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')


def check(name: str, spec: str) -> dict:
    """Build one config with another norm and say what came of it."""
    with contextlib.redirect_stdout(io.StringIO()):
        outcome, reason = _outcome(f'mmdet::{name}', spec)
    return dict(config=name, outcome=outcome, reason=reason)


def _outcome(name: str, spec: str) -> tuple[str, str]:
    try:
        model = _build(name, lambda cfg: set_norm(cfg, spec))
    except Exception as error:
        return _why_not(name, error)
    mixing = list(batch_statistics(model, spec))
    return ('left', ', '.join(mixing)) if mixing else ('turned', '')


def _why_not(name: str, error: Exception) -> tuple[str, str]:
    reason = output.line_of(error)
    if reason.endswith('the config has no model'):
        return 'no model', ''
    try:
        _build(name, lambda cfg: None)
    except Exception as error_without:
        if type(error_without).__name__ in DOWNLOADS:
            return 'download', ''
        package = PACKAGE.search(str(error_without))
        return ('package', package[package.lastindex]) if package else ('neither', reason)
    return 'broken', reason


def _build(name: str, change: Callable[[Config], None]) -> nn.Module:
    """A model without memory, where its parts read no values as they are built."""
    cfg = load_config(name)
    use_sbzoo(cfg)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    change(cfg)
    try:
        with torch.device('meta'):
            return MODELS.build(copy.deepcopy(cfg.model))
    except Exception:  # whatever it was, the same with memory says whether it is to be reported
        return MODELS.build(cfg.model)


def summary(results: list[dict]) -> dict:
    """Counts by outcome, and the configs whose norms were not replaced, by reason."""
    with_model = [result for result in results if result['outcome'] != 'no model']
    exceptions: dict[str, list[str]] = defaultdict(list)
    for result in with_model:
        if result['outcome'] != 'turned':
            reason = ': '.join(filter(None, (result['outcome'], result['reason'])))
            exceptions[reason].append(result['config'])
    return dict(
        configs=len(with_model),
        without_model=len(results) - len(with_model),
        counts=Counter(result['outcome'] for result in with_model),
        exceptions=exceptions,
    )


def table(found: dict[str, dict]) -> str:
    """A Markdown table of the counts."""
    rows = [f"| of MMDetection's configs | {' | '.join(found)} |", '|---' * (len(found) + 1) + '|']
    rows += [_row('all', [f['configs'] for f in found.values()])]
    for outcome, meaning in OUTCOMES.items():
        rows.append(_row(meaning, [f['counts'].get(outcome, 0) for f in found.values()]))
    return '\n'.join(rows)


def reasons(found: dict) -> list[str]:
    """A line for each reason why norms were not replaced."""
    return [f'{len(names):3} {reason}' for reason, names in found['exceptions'].items()]


def _row(head: str, counts: Iterable[int]) -> str:
    return f'| {head} | {" | ".join(map(str, counts))} |'
