"""The examples in the docstrings run and say what is so."""

import doctest
import pkgutil
import sys
from importlib import import_module

import pytest

import sbzoo.norm
from sbzoo.norm import Norm, build_norm, calibrate, convert_norm, norm_cfg, reestimate

MODULES = [module.name for module in pkgutil.walk_packages(sbzoo.norm.__path__, 'sbzoo.norm.')]


@pytest.mark.parametrize('name', MODULES)
def test_examples_are_true(name):
    if name.endswith('.triton'):
        pytest.importorskip('triton')
    assert doctest.testmod(import_module(name)).failed == 0


@pytest.mark.parametrize(
    'public',
    [Norm, build_norm, norm_cfg, convert_norm, calibrate, reestimate],
    ids=lambda public: public.__name__,
)
def test_the_public_interface_has_examples(public):
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (examples,) = finder.find(public, globs=vars(sys.modules[public.__module__]).copy())
    results = runner.run(examples)
    assert results.attempted > 0
    assert results.failed == 0
