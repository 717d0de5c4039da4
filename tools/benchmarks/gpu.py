"""Norms, training of detectors and FID features on a GPU, each beside its peer."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import output
from benchmarks.gpu_sections import FULL, SECTIONS, SMOKE, Failure, Failures, Scale
from sbzoo import records
from sbzoo.engine.child import in_child
from sbzoo.errors import UserError
from sbzoo.records import Measurement, read_measurements
from sbzoo.report import gpu

LIMIT = 8 * 60  # seconds of a section
FAILED = 'failed'  # in the protocol of a section, for what is missing
Outcome = tuple[list[Measurement], list[Failure]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sections, and how."""
    add = parser.add_argument
    add('--sections', nargs='+', default=[*SECTIONS], choices=SECTIONS, metavar='NAME')
    add('--again', action='store_true', help='measure what is on record for this GPU again')
    add('--smoke', action='store_true', help='everything tiny on the CPU, to see that it runs')
    where = 'gpu_NAME.jsonl for this GPU, with --smoke in a temporary folder'
    add('--out', type=Path, metavar='FILE', help=f'default: {where}')


def run(args: argparse.Namespace) -> None:
    """Measure what is not on record for this GPU and these versions, section by section.

    Each has a process of its own, as an error of a GPU leaves none that goes on.

    Raises:
        UserError: Something has failed; what has not is on record.
    """
    if not args.smoke and not torch.cuda.is_available():
        print('no GPU: torch sees none, so nothing is measured; --smoke runs it all on the CPU')
        return
    name = 'no GPU' if args.smoke else torch.cuda.get_device_name()
    out = args.out or _folder(args.smoke) / f'gpu_{_slug(name)}.jsonl'
    measured = partial(measure, scale=SMOKE) if args.smoke else in_a_process
    failures = {}
    for section in args.sections:
        if args.again or not _is_on_record(section, name, out):
            failures[section] = _record(section, name, measured, out)
        else:
            print(f'{section}: on record')
    output.show(out, gpu.tables(read_measurements(out)))
    _raise_if(failures, args.debug)


def _folder(smoke: bool) -> Path:
    return Path(tempfile.mkdtemp(prefix='sbzoo-gpu-')) if smoke else output.RESULTS


def _slug(name: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')


def _is_on_record(section: str, name: str, out: Path) -> bool:
    """Whether all of a section has been measured on this GPU by the versions of now."""
    here = _identity(section, name, records.versions())
    lines = [m for m in read_measurements(out) if _identity_of(m) == here]
    return bool(lines) and not any(FAILED in m.protocol for m in lines)


def _identity(section: str, name: str, versions: dict[str, str]) -> tuple[str, ...]:
    return section, name, versions['sbzoo'], versions['torch']


def _identity_of(m: Measurement) -> tuple[str, ...]:
    return _identity(m.row['section'], m.machine['gpu'], m.versions)


def _record(
    section: str, name: str, measured: Callable[[str], Outcome], out: Path
) -> list[Failure]:
    """Measure a section, put it on record, and say how it went."""
    start = time.perf_counter()
    found, failures = measured(section)
    facts = {FAILED: [failure.what for failure in failures]} if failures else {}
    records.record(out, [_of_gpu(m, section, name, facts) for m in found])
    print(f'{section}: {len(found)} lines, {time.perf_counter() - start:.0f} s', flush=True)
    for failure in failures:
        print(f'  failed: {failure.what}: {failure.error}')
    return failures


def _raise_if(failures: dict[str, list[Failure]], debug: bool) -> None:
    traces = dict.fromkeys(failure.trace for listed in failures.values() for failure in listed)
    if debug:
        print(*traces, sep='\n', file=sys.stderr)
    if traces:
        counts = (f'{name} ({len(listed)})' for name, listed in failures.items() if listed)
        raise UserError(f'failed, as said above: {", ".join(counts)}')


def _of_gpu(m: Measurement, section: str, name: str, facts: dict[str, Any]) -> Measurement:
    tf32 = torch.backends.cudnn.allow_tf32
    return m._replace(
        row=dict(section=section) | m.row,
        machine=m.machine | dict(gpu=name),
        versions=m.versions | dict(cuda=torch.version.cuda or 'none'),
        protocol=m.protocol | dict(tf32_convolutions=tf32) | facts,
    )


def in_a_process(section: str) -> Outcome:
    """Measure a section in a process of its own, which is ended when its time is up."""
    try:
        return in_child(_limited, section, FULL)
    except ChildProcessError as error:
        why = f'{error}, or after {LIMIT} seconds'
        return [], [Failure('all', why, why)]


def _limited(section: str, scale: Scale) -> Outcome:
    signal.alarm(LIMIT)
    return measure(section, scale)


def measure(section: str, scale: Scale) -> Outcome:
    """What a section finds, until an exception if there is one, and what has failed."""
    found, failures = [], Failures()
    try:
        for measurement in SECTIONS[section](scale, failures):
            found.append(measurement)
    except Exception as error:
        failures.add('the rest', error)
    return found, failures
