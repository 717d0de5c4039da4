"""The error that is the user's to mend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Row = TypeVar('Row')


class UserError(ValueError):
    """Bad input: shown as one clear message and a non-zero exit, without a traceback."""


def did_you_mean(near: Sequence[str]) -> str:
    """What a message ends with, where there are names like the one that was given."""
    return f'; did you mean {" or ".join(near)}?' if near else ''


def choose(kind: str, name: str, table: Mapping[str, Row]) -> Row:
    """The row of a table.

    Raises:
        UserError: There is none of that name; the message lists the names.
    """
    if name not in table:
        raise UserError(f'unknown {kind} {name!r}; known are {", ".join(table)}')
    return table[name]
