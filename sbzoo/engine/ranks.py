"""Ranks, the processes of a distributed run: how they meet, on CPUs too, and how they end."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import NamedTuple

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from torch import distributed as dist

from sbzoo.errors import UserError


class Variables(NamedTuple):
    """Where a launcher tells a process which it is."""

    rank: str
    local_rank: str
    world_size: str


LAUNCHERS = dict(
    pytorch=Variables('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    slurm=Variables('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    mpi=Variables(*(f'OMPI_COMM_WORLD_{name}' for name in Variables('RANK', 'LOCAL_RANK', 'SIZE'))),
)
# A rank may wait for minutes while another evaluates, downloads or writes; one that has died is
# noticed at once, by its connection. So this only ends runs that hang.
TIMEOUT = 1800  # seconds
ROLL_CALL = 1.0  # seconds
FLOOR = 'floor'  # who has it speaks
LOST = re.compile(r'gloo|nccl|connection (closed|reset)|timed out waiting', re.IGNORECASE)


def world_size(launcher: str) -> int:
    """How many processes a launcher has started, which torch will know only later.

    Raises:
        UserError: It has not started this one.
    """
    return int(_told(launcher, LAUNCHERS[launcher].world_size)) if launcher != 'none' else 1


def rank_of(launcher: str) -> int:
    """Which of them this is, from 0.

    Raises:
        UserError: It has not been started by the launcher.
    """
    return int(_told(launcher, LAUNCHERS[launcher].rank)) if launcher != 'none' else 0


def _told(launcher: str, variable: str) -> str:
    if variable not in os.environ:
        raise UserError(f'--launcher {launcher}: {variable} is not set, so it did not start this')
    return os.environ[variable]


def join(launcher: str, timeout: float = TIMEOUT, **options) -> None:
    """Join the other processes that a launcher has started; without one this is alone.

    Without a GPU they meet by gloo, whatever the backend: mmengine's `init_dist` needs one.

    Args:
        launcher: `none`, or of `LAUNCHERS`.
        timeout: Seconds until a rank that does not answer ends the others.
        options: Of mmengine's `init_dist`, `dist_cfg` in a config.

    Raises:
        UserError: The launcher has not started this process, or does not say where to meet.
    """
    if launcher == 'none' or dist.is_initialized():
        return
    told = [_told(launcher, variable) for variable in LAUNCHERS[launcher]]
    if get_device() != 'cpu':
        init_dist(launcher, timeout=timeout, **options)
        return
    if 'MASTER_ADDR' not in os.environ:
        raise UserError(f'--launcher {launcher}: set MASTER_ADDR to the host of the first process')
    os.environ |= dict(zip(LAUNCHERS['pytorch'], told, strict=True))
    os.environ.setdefault('MASTER_PORT', '29500')
    dist.init_process_group('gloo', timeout=timedelta(seconds=timeout))


def join_as(cfg: Config) -> None:
    """Join as a config says, and let its model be wrapped for the device that there is."""
    if cfg.get('launcher', 'none') == 'none':
        return
    join(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if get_device() == 'cpu':  # where mmengine would name a device that is not there
        unused = cfg.get('find_unused_parameters', False)
        default = dict(broadcast_buffers=False, find_unused_parameters=unused)
        cfg.model_wrapper_cfg = dict(cfg.get('model_wrapper_cfg') or default, device_ids=None)


@contextmanager
def one_voice(launcher: str) -> Iterator[None]:
    """Let one rank speak for all: the first prints results, and one of them what went wrong.

    Raises:
        UserError: Another rank has ended or hangs.
        SystemExit: Another rank says what went wrong.
    """
    if launcher == 'none':
        yield
        return
    rank = rank_of(launcher)
    try:
        with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere if rank else sys.stdout):
            yield
    except (Exception, KeyboardInterrupt) as error:
        for ending in (signal.SIGINT, signal.SIGTERM):  # which the launcher sends to the others
            signal.signal(ending, signal.SIG_IGN)
        said = _said_by_all(error) if dist.is_initialized() else error
        is_first = not int(_told(launcher, LAUNCHERS[launcher].local_rank))
        if said is None or not (dist.is_initialized() or is_first):
            raise SystemExit(1) from error
        raise said from None
    if dist.is_initialized():
        dist.destroy_process_group()


def _said_by_all(error: BaseException) -> BaseException | None:
    """What this rank has to say about its end; None if another has spoken."""
    store, is_lost = dist.distributed_c10d._get_default_store(), LOST.search(str(error))
    try:
        missing = _roll_call(store) if is_lost or isinstance(error, KeyboardInterrupt) else []
        if store.add(FLOOR, 1) > 1:
            return None
    except RuntimeError:  # the store was the first rank's
        missing = [0]
    if not missing:
        return error
    ranks = ', '.join(map(str, missing))
    return UserError(f'rank {ranks} of {dist.get_world_size()} has ended or hangs (out of memory?)')


def _roll_call(store: dist.Store) -> list[int]:
    """The ranks that do not answer, unless one of them speaks itself."""
    names = [f'here/{rank}' for rank in range(dist.get_world_size())]
    store.set(names[dist.get_rank()], '')
    last = time.monotonic() + ROLL_CALL
    while time.monotonic() < last and not store.check([FLOOR]) and not store.check(names):
        time.sleep(0.05)
    return [rank for rank, name in enumerate(names) if not store.check([name])]
