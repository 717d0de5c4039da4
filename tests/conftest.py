"""Settings of all tests: one thread, one seed, a home of their own, the embedded set built once."""

import os
import shutil
import site
import tempfile
import warnings
from pathlib import Path

import pytest


def _move() -> Path:
    """Make a home for tests, before any library looks for its cache, so that users keep theirs."""
    os.environ.setdefault('PYTHONUSERBASE', site.getuserbase())
    os.environ.setdefault('GIT_CONFIG_GLOBAL', str(Path.home() / '.gitconfig'))
    for name in OF_CACHES:
        os.environ.pop(name, None)
    os.environ['HOME'] = tempfile.mkdtemp(prefix='sbzoo-tests-')
    return Path.home()


OF_CACHES = (
    *('SBZOO_CACHE', 'TORCH_HOME', 'HF_HOME', 'HF_HUB_CACHE', 'MPLCONFIGDIR', 'TRITON_CACHE_DIR'),
    *('MMENGINE_HOME', 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME'),
)
HOME = None if 'PYTEST_XDIST_WORKER' in os.environ else _move()  # which workers share

import torch
from mmdet.utils import register_all_modules
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import sbzoo  # noqa: F401

register_all_modules(init_default_scope=False)


@pytest.fixture(autouse=True)
def _repeatable():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    MMLogger._instance_dict.clear()  # an earlier test's writes to what is closed by now
    with DefaultScope.overwrite_default_scope('mmdet'):  # whatever an earlier test left behind
        yield


def pytest_runtest_setup(item):
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('no GPU')


def pytest_unconfigure():
    if HOME:
        shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope='session')
def digits():
    """The embedded detection set, in the cache of the session."""
    from sbzoo.data.embedded.digit_scenes import ensure_digits
    from sbzoo.paths import cache_dir

    with warnings.catch_warnings():
        warnings.simplefilter('error')  # other bytes than the published set has
        return ensure_digits(cache_dir() / 'digits')
