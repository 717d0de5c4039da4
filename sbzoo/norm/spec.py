"""The spec language: from `gn32`, `in`, `hybrid(bn,ln)` ... to a pool."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from sbzoo.errors import UserError
from sbzoo.norm import pools
from sbzoo.norm.pools import Pool

WEIGHT_STD = '+ws'
GROUPS = 32  # of Wu and He 2018


class Entry(NamedTuple):
    """One line of the table of norms."""

    spec: str  # how it is written, optional parts in brackets
    pattern: str  # a regular expression; its groups go to `build` as text or None
    build: Callable[..., Pool]  # (num_channels, *groups)
    statistics: str
    use: str


def _groups(channels: int, wanted: str | None) -> int:
    if wanted is None:
        return num_groups(channels, GROUPS)
    taken = _divided(channels, int(wanted))
    if channels > 1 and taken != int(wanted):
        say_once(f'{wanted} groups do not divide {channels} channels: {taken} are taken')
    return taken


def _divided(channels: int, groups: int) -> int:
    """So many groups, of one channel too, if they divide the channels."""
    return groups if channels % groups == 0 else num_groups(channels, groups)


@cache
def say_once(message: str) -> None:
    """Once in a process, however many layers there are."""
    logging.getLogger(__name__).warning(message)


def _hybrid(channels: int, first: str | None, second: str | None, channel: str | None) -> Pool:
    parts = [parse(first or 'syncbn', channels), _second(first, second or 'ln', channels)]
    for name, part in zip((first, second), parts, strict=True):
        if part.learns:
            raise UserError(
                f'hybrid({first},{second}): {name} learns more than weight and bias, for which a '
                'hybrid has no room; mix norms that are statistics alone: bn, in, ln, gn, rms'
            )
    if all(part.keeps_running for part in parts):
        raise UserError(
            f'hybrid({first},{second}): both keep running statistics, and a layer has room for '
            'one; mix one of them with a norm of each sample: in, ln, gn, rms'
        )
    return pools.Mix(*parts, per_channel=channel is not None)


def _second(first: str | None, spec: str, channels: int) -> Pool:
    """`running` is no norm by itself: the first part has to keep the statistics."""
    if spec != 'running':
        return parse(spec, channels)
    if not parse(first, channels).uses_batch:
        raise UserError(
            f'hybrid({first},running): {first} keeps no statistics of batches; hybrid(bn,running) '
            'is what does'
        )
    return pools.Running()


NORMS = (
    Entry('gn[G]', r'gn([1-9]\d*)?', lambda c, g: pools.Group(_groups(c, g)),
          'a sample, groups of channels (G = 32)', 'any batch; the first to try'),
    Entry('ln', r'ln', lambda c: pools.Group(1),
          'a sample', 'layers too narrow for groups'),
    Entry('in', r'in', lambda c: pools.Group(c),
          'a sample and channel', 'style, GANs'),
    Entry('rms', r'rms', lambda c: pools.RootMeanSquare(),
          'a sample, uncentred', 'as ln, a little cheaper'),
    Entry('frn', r'frn', lambda c: pools.FilterResponse(),
          'a sample and channel, uncentred', 'with its own threshold for a ReLU; not on 1x1 maps'),
    Entry('evos0', r'evos0', lambda c: pools.EvoNormS0(_divided(c, GROUPS)),
          'a sample, groups of channels', 'norm and activation in one; EvoNorm backbones'),
    Entry('hybrid[(A,B[,channel])]', r'hybrid(?:\(([^,()]+),([^,()]+)(,channel)?\))?', _hybrid,
          'a learned mix of A and B (syncbn, ln)',
          'batch 2-8, or unknown; alpha by layer or channel'),
    Entry('sn', r'sn', lambda c: pools.Switch(),
          'a learned mix of in, ln and bn', 'batch 2-8; switchable norm'),
    Entry('ibn', r'ibn', lambda c: pools.InstanceBatch(),
          'half the channels in, half bn', 'change of style; batch 8 or more'),
    Entry('bn', r'bn', lambda c: pools.Batch(),
          'the batch', 'batch size 8 or more'),
    Entry('fbn', r'fbn', lambda c: pools.Frozen(),
          'none: those of pretraining, frozen', 'fine-tuning BN weights; the least memory'),
    Entry('syncbn', r'syncbn', lambda c: pools.Sync(),
          'the batches of all ranks', 'many devices with few images each, CPUs too'),
    Entry('ghostN', r'ghost([1-9]\d*)', lambda c, n: pools.Ghost(int(n)),
          'N samples of the batch', 'large batches'),
    Entry('bgn[G]', r'bgn([1-9]\d*)?', lambda c, g: pools.BatchGroup(_groups(c, g)),
          'the batch, groups of channels', 'batch 2-8'),
    Entry('brn', r'brn', lambda c: pools.Renorm(),
          'the batch, corrected towards the running statistics', 'batch 4-8, long schedules'),
    Entry('mabn', r'mabn', lambda c: pools.MovingAverage(),
          'the last 16 batches, uncentred', 'batch 1-4, with +ws; free in evaluation'),
)  # fmt: skip


def parse(spec: str, num_channels: int) -> Pool:
    """The pool that `spec` names, for a layer of `num_channels`.

    Raises:
        UserError: The spec is not in the table; the message lists it.
    """
    plain, standardised = split_spec(spec)
    for entry in () if standardised else NORMS:
        match = re.fullmatch(entry.pattern, plain)
        if match:
            return entry.build(num_channels, *match.groups())
    raise UserError(f'unknown norm {spec!r}; known are\n{norm_table()}')


def split_spec(spec: str) -> tuple[str, bool]:
    """A spec as the table writes it, without `+ws`; and whether that was there.

    Blanks and capitals do not matter.
    """
    written = ''.join(spec.split()).lower()
    plain = written.removesuffix(WEIGHT_STD)
    return plain, plain != written


def norm_table() -> str:
    """The table of norms as text, a line each."""
    rows = [(e.spec, e.statistics, e.use) for e in NORMS]
    rows.append(('...+ws', 'as without', 'weight-standardised convolutions; --norm, convert_norm'))
    return '\n'.join(f'  {spec:24} {statistics:51} {use}' for spec, statistics, use in rows)


def num_groups(channels: int, wanted: int) -> int:
    """The number of groups of channels that is nearest to the wanted one, the larger of two.

    A group has two channels at least: one of a single channel is instance norm, which nobody has
    asked for. So a prime number of channels is one group.
    """
    divisors = [d for d in range(1, channels // 2 + 1) if channels % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), -d), default=1)
