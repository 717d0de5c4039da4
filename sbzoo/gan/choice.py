"""A row of a table by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from sbzoo.errors import UserError

Row = TypeVar('Row')


def choose(kind: str, name: str, table: Mapping[str, Row]) -> Row:
    """The row of a table.

    Raises:
        UserError: There is none of that name; the message lists the names.
    """
    if name not in table:
        raise UserError(f'unknown {kind} {name!r}; known are {", ".join(table)}')
    return table[name]
