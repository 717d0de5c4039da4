"""A work directory is of one run: locked while it trains, and not begun anew by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sbzoo.checkpoint.resolve import latest_checkpoint
from sbzoo.engine.ranks import rank_of
from sbzoo.errors import UserError

LOCK = '.training.lock'


@contextmanager
def training_in(work_dir: str | Path, launcher: str = 'none') -> Iterator[None]:
    """Hold a work directory, which is made; the first rank does it for all.

    The lock ends with the process, however that ends.

    Raises:
        UserError: Another training holds it.
    """
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    if rank_of(launcher):
        yield
        return
    try:
        lock = FileLock(Path(work_dir, LOCK)).acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f'{work_dir}: another training is running there; wait for its end, or give this one '
            'another --work-dir'
        ) from error
    with lock:
        yield


def check_unused(work_dir: str | Path, resumed: Path | None) -> None:
    """Check that a work directory has no checkpoints but those of the run that is resumed, if any.

    Raises:
        UserError: It has those of another run, which this one would write over or mix with.
    """
    newest = latest_checkpoint(work_dir)
    if newest and (resumed is None or resumed.resolve().parent != newest.resolve().parent):
        raise UserError(
            f'{work_dir}: a run has left {newest.name} there; give --resume to go on with it, or '
            'another --work-dir'
        )
