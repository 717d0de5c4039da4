"""Measurements on record: figures with all that they depend on, a line of JSON each."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Hashable, Iterable
from datetime import date
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sbzoo.errors import UserError
from sbzoo.files import write


class Measurement(NamedTuple):
    """A line of a benchmark's file: figures with all that they depend on.

    Attributes:
        row: What was measured.
        figures: What came out; those of time in seconds or milliseconds, as their name says.
        protocol: How it was measured.
        machine: Its processor, cores, threads (those in use), system, and the GPU if one was used.
    """

    row: dict[str, Any]
    figures: dict[str, float]
    protocol: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: str

    @property
    def where(self) -> str:
        """The machine in words."""
        threads, cores = self.machine['threads'], self.machine['cores']
        facts = f'{threads} of {cores} threads', self.machine['processor'], self.machine['system']
        gpu = [self.machine['gpu']] if 'gpu' in self.machine else []
        return ', '.join([*gpu, *facts])


def read_measurements(path: Path) -> list[Measurement]:
    """The lines of a benchmark's file; none where it was not measured yet.

    Raises:
        UserError: A line is not a measurement.
    """
    lines = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    return [_parse(line, f'{path.name}:{i}') for i, line in enumerate(lines, start=1)]


def _parse(text: str, place: str) -> Measurement:
    try:
        line = json.loads(text)
        return Measurement(**{field: line[field] for field in Measurement._fields})
    except (ValueError, KeyError, TypeError) as error:
        reason = f'no {error}' if isinstance(error, KeyError) else error
        raise UserError(f'{place}: not a measurement ({reason})') from error


def measurement(
    row: dict[str, Any],
    figures: dict[str, float],
    protocol: dict[str, Any],
    peers: Iterable[str] = (),
    threads: int | None = None,
) -> Measurement:
    """Figures of now and here.

    Args:
        row: What was measured; it identifies the line, together with the machine.
        figures: What came out.
        protocol: How.
        peers: Packages whose versions matter, beside torch.
        threads: In use; those of torch by default.
    """
    machine = dict(
        processor=processor(),
        cores=os.cpu_count(),
        threads=threads or torch.get_num_threads(),
        system=f'{platform.system()} {platform.machine()}',
    )
    figures = {name: float(f'{value:.5g}') for name, value in figures.items()}
    command = shlex.join(['python', f'tools/{Path(sys.argv[0]).name}', *sys.argv[1:]])
    today = date.today().isoformat()
    return Measurement(row, figures, protocol, machine, versions(peers), today, command)


def versions(peers: Iterable[str] = ()) -> dict[str, str]:
    """Those of this library, of torch and of its peers."""
    sources = _sources()  # mmdet may come from mmdet or from onedl-mmdetection
    return {n: version(sources.get(n, [n])[0]) for n in ('sbzoo', 'torch', *peers)}


_sources = cache(packages_distributions)  # which reads a file of each package


def processor() -> str:
    """The model name of the processor."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.processor() or platform.machine())


def record(path: Path, measurements: Iterable[Measurement]) -> None:
    """Write measurements to a file; those of the same rows on the same machine are replaced."""
    write_lines(
        path,
        [m._asdict() for m in measurements],
        lambda line: json.dumps([line['row'], line['machine']], sort_keys=True),
    )


def write_lines(path: Path, lines: Iterable[dict], identity: Callable[[dict], Hashable]) -> None:
    """Put lines into a file, atomically; those that `identity` maps to the same are replaced."""
    old = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    kept = {identity(line): line for line in (*map(json.loads, old), *lines)}
    text = ''.join(json.dumps(line) + '\n' for line in kept.values())
    write(path, text.encode())
