"""Files and folders that are written whole or not at all, with the permissions of any new file."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sbzoo.checkpoint.io import AtomicBackend
from sbzoo.data.embedded import ensure_built
from sbzoo.data.image_folder import decode, read_image_folder
from sbzoo.engine import sampling as generate
from sbzoo.files import new_folder, replacing
from sbzoo.metrics.features import Features


@pytest.fixture(params=[0o022, 0o007], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def build(root: Path) -> str:
    (root / 'file').write_text('built')
    return 'digest'


def decoded(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv('SBZOO_CACHE', str(tmp_path / 'cache'))
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    decode(read_image_folder(tmp_path), 8)
    (file,) = (tmp_path / 'cache/decoded').iterdir()
    return file


def test_permissions_follow_the_umask(tmp_path, monkeypatch, umask):
    AtomicBackend().put(b'', tmp_path / 'epoch_1.pth')
    Features.of(torch.randn(9, 3), 'digits').statistics.save(tmp_path / 'statistics.npz')
    images = iter(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    folders = generate.save(images, 2, tmp_path / 'samples'), tmp_path / 'built'
    ensure_built(folders[1], build, 'digest')
    files = tmp_path / 'epoch_1.pth', tmp_path / 'statistics.npz', decoded(tmp_path, monkeypatch)
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path
    for path in folders:
        assert path.stat().st_mode & 0o777 == 0o777 & ~umask, path


@pytest.mark.parametrize('writer', [replacing, new_folder])
def test_what_is_interrupted_leaves_nothing(tmp_path, writer):
    def interrupted() -> None:
        with writer(tmp_path / 'sub/out') as out:
            np.savez(out / 'a.npz' if isinstance(out, Path) else out, np.zeros(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / 'sub').iterdir()) == []


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    with replacing(path) as file:
        file.write(b'new')
        file.flush()
        assert path.read_bytes() == b'old'
    assert path.read_bytes() == b'new'
    assert list(tmp_path.iterdir()) == [path]


def test_a_set_that_another_process_has_built_meanwhile_is_taken(tmp_path):
    def slowly(root: Path) -> str:
        ensure_built(tmp_path / 'set', build, 'digest')
        (root / 'file').write_text('late')
        return 'digest'

    assert ensure_built(tmp_path / 'set', slowly, 'digest') == tmp_path / 'set'
    assert (tmp_path / 'set/file').read_text() == 'built'
    assert list(tmp_path.iterdir()) == [tmp_path / 'set']


def test_a_set_that_cannot_be_built_is_an_error(tmp_path):
    def full(root: Path) -> str:
        raise OSError(28, 'No space left on device')

    with pytest.raises(OSError, match='No space'):
        ensure_built(tmp_path / 'set', full, 'digest')
    assert list(tmp_path.iterdir()) == []
