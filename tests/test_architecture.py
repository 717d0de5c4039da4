"""The architecture, read from the imports and the syntax tree."""

import ast
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent


def test_imports_point_one_way(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename='setup.cfg', no_cache=True) == 0


def test_functions_are_short():
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in (ROOT / 'sbzoo').rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    median, ninetieth = lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10]
    assert (median <= 12, ninetieth <= 40, lengths[-1] <= 80) == (True, True, True), lengths
