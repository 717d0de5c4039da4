"""A function in a process of its own, with limits on its memory and its processor time."""

from __future__ import annotations

import contextlib
import io
import logging
import resource
import signal
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

FORK = get_context('fork')  # a child has what this process has imported, in milliseconds


class Limits(NamedTuple):
    """What a process may take."""

    gigabytes: float = 5  # of memory of its own
    seconds: int = 180  # of processor time


def limited(limits: Limits, function: Callable, *args: object) -> Any:
    """What a function returns that can be pickled, on one thread and silently.

    This process has to have one thread.

    Raises:
        RuntimeError: Its process has ended before it returned.
    """
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_run, args=(sender, limits, function, *args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(_how(process.exitcode, limits)) from None
    finally:
        process.join()


def _how(status: int, limits: Limits) -> str:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f'more than {limits.seconds} s of processor time'
    return f'ended with status {status}'


def _run(sender: Connection, limits: Limits, function: Callable, *args: object) -> None:
    torch.set_num_threads(1)
    for what, most in (
        (resource.RLIMIT_DATA, int(limits.gigabytes * 2**30)),
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    with contextlib.redirect_stdout(io.StringIO()):
        sender.send(function(*args))
