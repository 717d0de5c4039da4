"""The spec language: `gn32`, `in`, `hybrid(bn,ln)` ... to a pool."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from sbzoo.errors import UserError
from sbzoo.norm.pools import Batch, Group, Mix, Pool


class Entry(NamedTuple):
    """One line of the table of norms."""

    spec: str  # how it is written, optional parts in brackets
    pattern: str  # a regular expression; its groups go to `build` as text or None
    build: Callable[..., Pool]  # (num_channels, *groups)
    statistics: str
    use: str


NORMS = (
    Entry('bn', r'bn', lambda channels: Batch(), 'batch', '8 images a step or more'),
    Entry('in', r'in', lambda channels: Group(channels), 'sample and channel', 'style, GANs'),
    Entry('ln', r'ln', lambda channels: Group(1), 'sample', 'layers too narrow for groups'),
    Entry(
        'gn[G]',
        r'gn([1-9]\d*)?',
        lambda channels, groups: Group(nearest_divisor(channels, int(groups or 32))),
        'sample and group of channels',
        'any batch; the first to try (G = 32)',
    ),
    Entry(
        'hybrid[(A,B)]',
        r'hybrid(?:\(([^,()]+),([^,()]+)\))?',
        lambda channels, a, b: Mix(parse(a or 'bn', channels), parse(b or 'ln', channels)),
        'learned mix of two, bn and ln unless told',
        'batch 2-8, or unknown',
    ),
)


def parse(spec: str, num_channels: int) -> Pool:
    """The pool that `spec` names, for a layer of `num_channels`.

    Raises:
        UserError: The spec is not in the table; the message lists it.
    """
    for entry in NORMS:
        match = re.fullmatch(entry.pattern, spec.replace(' ', '').lower())
        if match:
            return entry.build(num_channels, *match.groups())
    raise UserError(f'unknown norm {spec!r}; known are\n{norm_table()}')


def norm_table() -> str:
    """The table of norms as text, a line each."""
    return '\n'.join(f'  {e.spec:14} {e.statistics:42} {e.use}' for e in NORMS)


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`, the larger of two equally near."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), -d))
