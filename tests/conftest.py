"""Settings of all tests: one thread, one seed, the embedded set built once."""

import os
import warnings

import pytest
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


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The embedded detection set, in a cache of this session's own."""
    from sbzoo.data.embedded.digit_scenes import ensure_digits
    from sbzoo.paths import cache_dir

    os.environ['SBZOO_CACHE'] = str(tmp_path_factory.mktemp('cache'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # other bytes than the published set has
        return ensure_digits(cache_dir() / 'digits')
