"""Files and folders that are written whole or not at all, with the permissions of any new file."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sbzoo.checkpoint.io import AtomicBackend
from sbzoo.data.embedded import ensure_built
from sbzoo.data.image_folder import decode, read_image_folder
from sbzoo.engine import sampling as generate
from sbzoo.files import naming, new_folder, replacing, write
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
    folders = generate.save(images, ['0.png', '1.png'], tmp_path / 'samples'), tmp_path / 'built'
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


def test_files_of_a_new_folder_are_written_alike(tmp_path):
    with new_folder(tmp_path / 'folder') as folder:
        write(folder / 'file', b'data')
    assert (tmp_path / 'folder/file').read_bytes() == b'data'
    assert [path.name for path in tmp_path.rglob('*')] == ['folder', 'file']


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


def killed_in(writer, path: Path) -> None:
    """Begin to write in a process that is killed before the end."""
    if process := os.fork():
        os.waitpid(process, 0)
        return
    with writer(path):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize('writer', [replacing, new_folder])
@pytest.mark.parametrize('name', ['out', 'o[u]t*'])
def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(
    tmp_path, writer, name
):
    others = {f'.{name}-0000', f'.{name}-of-date', '.out-01234567x', '.other-01234567'}
    for other in others:
        (tmp_path / other).touch()
    killed_in(writer, tmp_path / name)
    (left,) = {path.name for path in tmp_path.iterdir()} - others
    with writer(tmp_path / name) as out:
        living = {path.name for path in tmp_path.iterdir()} - others
        assert left not in living
        with writer(tmp_path / name):
            assert living < {path.name for path in tmp_path.iterdir()}
        if writer is new_folder:
            (tmp_path / name).rmdir()  # it takes the place of no other
        else:
            out.write(b'last')
    assert {path.name for path in tmp_path.iterdir()} == {name, *others}


@pytest.mark.parametrize('writer', [replacing, new_folder])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, writer):
    path = tmp_path / 'out'
    if writer is replacing:
        path.write_text('old')

    def fill() -> None:
        with writer(path), open('/dev/full', 'wb', buffering=0) as full:
            full.write(b'data')

    with pytest.raises(OSError, match='No space left') as failed:
        fill()
    assert failed.value.filename == str(path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ['old'] * (writer is replacing)


def test_other_errors_keep_their_names(tmp_path):
    with pytest.raises(OSError, match='No space') as failed, naming(tmp_path):
        raise OSError(28, 'No space left on device', 'scalars.json')
    assert failed.value.filename == 'scalars.json'
    with pytest.raises(OSError, match='cannot identify') as failed, naming(tmp_path):
        raise OSError('cannot identify image file')
    assert failed.value.filename is None
