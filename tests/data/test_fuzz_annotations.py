"""The first faults of the fuzzer: what `read_folder` says of each, in this process."""

import shutil
from contextlib import suppress

import pytest
from fuzz_annotations import sound_folder, spoil

from sbzoo.data.coco import read_folder
from sbzoo.errors import UserError


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp('fuzz') / 'sound'
    sound_folder(root)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))


def test_the_sound_folder_is_accepted(sound):
    assert read_folder(sound).train.counts.endswith('3 images, 5 boxes, 1 crowd, 2 classes')


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_random_faults_are_refused_by_name_or_accepted(sound, tmp_path):
    refused = 0
    for seed in range(60):
        root = tmp_path / str(seed)
        shutil.copytree(sound, root)
        spoil(root, seed)
        with suppress(UserError):
            read_folder(root)
            continue
        refused += 1
    assert 40 < refused < 60  # some faults do no harm
