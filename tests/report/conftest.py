"""Benchmarks in the process of the tests."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    """Runs tools/bench.py in this process."""

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, 'argv', ['bench.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/bench.py'))['main']()

    return call
