"""A function in a process of its own, which starts with nothing and says nothing."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from sbzoo import plugin

Result = TypeVar('Result')
SPAWN = get_context('spawn')


def in_child(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function, which is pickled with its arguments. The process does not outlive the call.

    Raises:
        ChildProcessError: The process was ended by the system.
        Exception: What the function raises.
    """
    answer, sender = SPAWN.Pipe(duplex=False)
    task = pickle.dumps((function, arguments))
    child = SPAWN.Process(target=_work, args=(sender, task), daemon=True)
    child.start()
    sender.close()  # so that the end of the child is the end of the pipe
    try:
        result, error = answer.recv()
    except EOFError:
        raise ChildProcessError(f'{function.__name__}: ended by the system') from None
    finally:
        child.kill()
        child.join()
    if error:
        raise error
    return result


def _work(sender: Connection, task: bytes) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    warnings.simplefilter('ignore')
    plugin.register()  # before the task is unpickled, which imports what it needs
    function, arguments = pickle.loads(task)
    try:
        sender.send((function(*arguments), None))
    except Exception as error:
        sender.send((None, error))
