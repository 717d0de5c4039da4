"""The claims of the field about small batches, tested: a module for each."""

from __future__ import annotations

from importlib import import_module

from sbzoo.errors import choose
from sbzoo.studies.base import Study

# in the order of the table in README.md
ORDER = (
    *('gradient-noise', 'statistics', 'consistency', 'flatness', 'membership', 'pruning'),
    *('minima', 'degeneration', 'alpha', 'depth', 'capacity', 'causality', 'contrastive'),
    *('federated', 'collocation', 'transfer'),
)
NAMES = {name: name.replace('-', '_') for name in ORDER}


def study(name: str) -> Study:
    """The study of a name, such as `gradient-noise`.

    Raises:
        UserError: There is none.
    """
    return import_module(f'sbzoo.studies.{choose("study", name, NAMES)}').STUDY
