"""A work directory is of one run: what a second one finds there, and its newest checkpoint."""

import os
import signal
import time

import pytest
from test_faults import CONFIG, train  # noqa: F401 (a fixture)

from sbzoo.checkpoint.resolve import latest_checkpoint, resolve
from sbzoo.engine.work_dir import LOCK, check_unused, training_in
from sbzoo.errors import UserError


def touch(folder, *names: str, last: str | None = None):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    if last is not None:
        (folder / 'last_checkpoint').write_text(last)
    return folder


def test_the_newest_checkpoint_is_that_of_the_last_run(tmp_path, capsys):
    names = 'epoch_1.pth', 'epoch_10.pth'
    folder = touch(tmp_path / 'run', *names, last='work_dirs/run/epoch_1.pth')
    assert latest_checkpoint(folder) == resolve(folder) == folder / 'epoch_1.pth'
    assert not capsys.readouterr().err


@pytest.mark.parametrize('last', ['', 'run/epoch_3.pth', '\0'])
def test_without_a_name_that_is_there_it_is_that_of_the_largest_number(tmp_path, capsys, last):
    folder = touch(tmp_path / 'run', 'epoch_9.pth', 'epoch_10.pth', 'best_epoch_11.pth', last=last)
    assert latest_checkpoint(folder) == folder / 'epoch_10.pth'
    assert 'names no checkpoint that is there' in capsys.readouterr().err


def test_checkpoints_that_are_kept_elsewhere(tmp_path):
    kept = touch(tmp_path / 'kept', 'epoch_2.pth') / 'epoch_2.pth'
    assert latest_checkpoint(touch(tmp_path / 'run', last=str(kept))) == kept
    kept.unlink()
    assert latest_checkpoint(tmp_path / 'run') is None


def test_a_directory_with_checkpoints_is_not_begun_anew(train, tmp_path):  # noqa: F811
    folder = touch(tmp_path / 'run', 'epoch_2.pth', 'retinanet_gn_b2.py')
    status, errors = train(CONFIG, '--work-dir', folder)
    assert status == 1
    assert f'{folder}: a run has left epoch_2.pth there; give --resume' in errors
    assert not (folder / 'retinanet_gn_b2.py').read_bytes()
    check_unused(folder, folder / 'epoch_1.pth')
    check_unused(tmp_path / 'new', folder / 'epoch_2.pth')
    with pytest.raises(UserError, match='a run has left'):
        check_unused(folder, tmp_path / 'other/epoch_1.pth')


def test_one_training_at_a_time(train, tmp_path):  # noqa: F811
    with training_in(tmp_path):
        status, errors = train(CONFIG, '--work-dir', tmp_path, '--resume')
    assert status == 1
    assert f'{tmp_path}: another training is running there' in errors
    assert [path.name for path in tmp_path.iterdir() if path.name != LOCK] == []
    with training_in(tmp_path):
        pass


def test_other_ranks_leave_the_lock_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    with training_in(tmp_path, 'pytorch'):
        monkeypatch.setenv('RANK', '1')
        with training_in(tmp_path, 'pytorch'):
            pass
        monkeypatch.setenv('RANK', '0')
        with pytest.raises(UserError, match='another training'), training_in(tmp_path, 'pytorch'):
            pass


def test_the_lock_ends_with_its_process(tmp_path):
    """Though a data worker, which it has forked, lives on for a while."""
    ready, holds = os.pipe()
    if not (holder := os.fork()):
        os.setsid()
        with training_in(tmp_path):
            if os.fork():
                os.write(holds, b'.')
            time.sleep(60)
    os.read(ready, 1)
    try:
        assert not is_free(tmp_path)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        assert is_free(tmp_path)
    finally:
        os.killpg(holder, signal.SIGKILL)


def is_free(folder) -> bool:
    try:
        with training_in(folder):
            return True
    except UserError:
        return False
