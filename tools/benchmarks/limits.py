"""A function in processes of its own, with limits on their memory and their processor time."""

from __future__ import annotations

import contextlib
import io
import logging
import resource
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import NamedTuple

import torch

FORK = get_context('fork')  # a child has what this process has imported, in milliseconds


class Limits(NamedTuple):
    """What a process may take."""

    gigabytes: float = 5  # of memory of its own
    seconds: int = 180  # of processor time


class Ended(NamedTuple):
    """What a process was given, and how it has ended."""

    arguments: tuple
    result: dict | None
    error: str  # why there is no result; empty if there is one

    def or_reason(self, key: str) -> dict:
        """The result, or the reason why there is none by its key."""
        return {key: self.error} if self.error else self.result


class _Running(NamedTuple):
    process: ForkProcess
    receiver: Connection
    arguments: tuple


def limited(
    limits: Limits, function: Callable[..., dict], calls: Iterable[tuple], jobs: int = 1
) -> Iterator[Ended]:
    """Call a function with each of several arguments, in processes of their own, as they end.

    They are silent and have one thread, as this process has to have.

    Args:
        limits: Of each.
        function: Returns what can be pickled.
        calls: Its arguments; asked for when there is room for a process.
        jobs: How many run side by side.
    """
    calls, running = iter(calls), []
    while running := running + [
        _start(limits, function, arguments) for arguments in islice(calls, jobs - len(running))
    ]:
        ready = wait([each.receiver for each in running])
        ended = [each for each in running if each.receiver in ready]
        running = [each for each in running if each not in ended]
        yield from (_ended(each, limits) for each in ended)


def _start(limits: Limits, function: Callable, arguments: tuple) -> _Running:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_run, args=(sender, limits, function, *arguments))
    process.start()
    sender.close()
    return _Running(process, receiver, arguments)


def _ended(running: _Running, limits: Limits) -> Ended:
    try:
        result = running.receiver.recv()
    except EOFError:
        result = None
    running.process.join()
    error = _how(running.process.exitcode, limits) if result is None else ''
    return Ended(running.arguments, result, error)


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
