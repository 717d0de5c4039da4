"""The architecture, read from the imports and the syntax tree."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'sbzoo'
TREES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): ast.parse(
        path.read_text()
    )
    for path in sorted(PACKAGE.rglob('*.py'))
    if '.mim' not in path.parts
}
DISTRIBUTIONS = dict(
    PIL='pillow', skimage='scikit-image', sklearn='scikit-learn', yaml='pyyaml'
)  # whose names are not those of their modules
ELSEWHERE = {'mmengine', 'mmcv', 'cv2', 'mmdet', 'onnx', 'onnxruntime'}  # extras
ELSEWHERE |= {'triton'}  # a part of torch's builds


def imported(tree: ast.AST) -> Iterator[str]:
    """All that a file imports, inside of functions and for annotations too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports are absolute'
            for alias in node.names:
                inner = f'{node.module}.{alias.name}'
                yield inner if inner in TREES else node.module


def test_imports_point_one_way(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename='setup.cfg', no_cache=True) == 0


def test_no_files_import_each_other_in_a_circle():
    graph = {name: {i for i in imported(tree) if i in TREES} for name, tree in TREES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(TREES)  # raises CycleError


def test_no_product_file_imports_a_benchmark():
    found = {i.split('.')[0] for tree in TREES.values() for i in imported(tree)}
    assert not found & {'benchmarks', 'tests', 'tools'}


def test_every_import_is_required():
    config = ConfigParser()
    config.read(ROOT / 'setup.cfg')
    listed = config['options']['install_requires'].split()
    required = [re.match(r'[\w-]+', line)[0].lower() for line in listed]
    found = {i.split('.')[0] for tree in TREES.values() for i in imported(tree)}
    third = found - set(sys.stdlib_module_names) - ELSEWHERE - {'sbzoo'}
    names = {DISTRIBUTIONS.get(name, name.replace('_', '-')) for name in third}
    normal = [name.replace('_', '-') for name in required]
    assert len(normal) == len(set(normal))
    assert set(normal) == names | {'tensorboard'}  # which mmengine imports for its backend


def test_functions_are_short():
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    )
    median, ninetieth = lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10]
    assert (median <= 9, ninetieth <= 25, lengths[-1] <= 80) == (True, True, True), lengths


@pytest.mark.parametrize('module', ['sbzoo', 'sbzoo.norm'])
def test_norms_need_torch_alone(module):
    """Also where OpenMMLab's libraries are installed, as they are here."""
    script = (
        f'import {module}, sys\n'
        'loaded = {name.split(".")[0] for name in sys.modules}\n'
        'print(sorted(loaded & {"mmengine", "mmcv", "mmdet"}))'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == '[]\n', done.stderr
