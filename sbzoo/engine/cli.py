"""How every tool starts and ends: one clear line for what went wrong, and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec

from sbzoo.errors import UserError

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def run(main: Callable[[], None], debug: bool) -> None:
    """Call a tool's main function and exit.

    Errors are shown as one message on standard error; with `debug` as a traceback too.
    """
    warnings.simplefilter('default' if debug else 'ignore')
    try:
        require_openmmlab()
        main()
    except KeyboardInterrupt:
        _leave('stopped; the same command with --resume goes on from the last checkpoint',
               EXIT_INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _leave(_message(error), EXIT_ERROR)


def _leave(message: str, status: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(status)


def _message(error: Exception) -> str:
    if isinstance(error, UserError):
        return f'error: {error}'
    if isinstance(error, OSError):
        return f'error: {error.filename or "input or output"}: {error.strerror or error}'
    reason = str(error).strip().splitlines()[:1]
    return f'error: {type(error).__name__}: {"".join(reason)} (--debug shows where)'


def require_openmmlab() -> None:
    """Check that mmengine, mmcv and MMDetection are installed.

    Raises:
        UserError: One is not; the message names the extra to install.
    """
    missing = [name for name in ('mmengine', 'mmcv', 'mmdet') if not find_spec(name)]
    if missing:
        raise UserError(f'{", ".join(missing)} not installed; run: pip install -e ".[onedl]"')


def positive_int(text: str) -> int:
    """An option's value that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text}: give 1 or more')
    return value


def is_main_process() -> bool:
    """Whether this is the process of a launch that prints."""
    return os.environ.get('RANK', '0') == '0'
