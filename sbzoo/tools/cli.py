"""How every tool starts and ends: one clear line for what went wrong, and an exit status."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

from sbzoo import plugin
from sbzoo.errors import UserError

if TYPE_CHECKING:
    from sbzoo.zoo.load import Detector, Generator, Translator

    Model = Detector | Generator | Translator

EXIT_ERROR, EXIT_UNREAD = 1, 141
EXIT_SIGNAL = 128  # and the number of the signal
# of Ctrl-C, of kill or a scheduler at the limit of time, of a terminal that is closed
STOPS = [getattr(signal, n) for n in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, n)]
STDOUT = 1
WIDTH, LINES = 500, 200  # of a message, at most
SEEDS = 2**31


def run(
    main: Callable[[], None], debug: bool, interrupted: Callable[[], str] = lambda: 'stopped'
) -> None:
    """Call a tool's main function and exit.

    Errors are shown as one message on standard error; with `debug` as a traceback too. A reader
    of standard output that leaves early (`| head`) ends the tool without a word.

    Args:
        main: The tool.
        debug: Whether to show tracebacks and warnings.
        interrupted: What to say after Ctrl-C, SIGTERM and SIGHUP.
    """
    warnings.simplefilter('default' if debug else 'ignore')
    logging.raiseExceptions = debug  # a log that cannot be written is not worth a traceback
    stops = _interrupt_on_stops()
    try:
        plugin.require_host()
        plugin.register()
        main()
    except (KeyboardInterrupt, Exception) as error:
        # Libraries and data workers may have made another error of it; a lost rank is the cause.
        if stops and not isinstance(error, UserError):
            _leave(interrupted(), EXIT_SIGNAL + stops[0])
        if isinstance(error, BrokenPipeError) and _is_unread():
            sys.exit(EXIT_UNREAD)
        if debug:
            traceback.print_exc()
        _leave(_message(error), EXIT_ERROR)


def _interrupt_on_stops() -> list[int]:
    """Let the signals of `STOPS` interrupt; the first is put into the list.

    Those that whoever started this has told it to ignore (nohup) stay ignored.
    """
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        for each in STOPS:  # they come in groups, and the first is being obeyed
            signal.signal(each, signal.SIG_IGN)
        if hasattr(signal, 'SIGCHLD'):  # torch would raise for data workers, which end as well
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise KeyboardInterrupt

    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    return received


def _leave(message: str, status: int) -> None:
    try:
        _flush()
        print(_printable(message), file=sys.stderr)
    except OSError:  # the terminal is gone, which would be found out again at the very end
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    sys.exit(status)


@atexit.register
def _flush() -> None:
    """Flush standard output, to nowhere if nobody reads it any more."""
    if _is_unread():
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    sys.stdout.flush()


def _is_unread() -> bool:
    if not hasattr(select, 'poll'):  # Windows
        return False
    poll = select.poll()
    poll.register(STDOUT, 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _printable(message: str) -> str:
    """A message as a terminal may show it, whatever names and replies are in it.

    Control characters are written as escapes, lines after the first are indented, and what is too
    long is cut: of a line the middle, of many lines the end.
    """
    first, *others = message.expandtabs().split('\n')
    lines = [first, *(line if line.startswith(' ') else f'  {line}' for line in others)]
    if len(lines) > LINES:
        lines[LINES:] = [f'  ... and {len(lines) - LINES} lines more']
    return '\n'.join(map(_shortened, map(_escaped, lines)))


def _escaped(line: str) -> str:
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in line)


def _shortened(line: str) -> str:
    start, end = line[: WIDTH * 2 // 3], line[-WIDTH // 4 :]
    return line if len(line) <= WIDTH else f'{start} ... {end}'


def _message(error: Exception) -> str:
    if isinstance(error, UserError):
        return f'error: {_text(error)}'
    if isinstance(error, URLError):
        hint = 'train without them by --scratch'
        return f'error: the pretrained weights could not be downloaded ({error.reason}); {hint}'
    if isinstance(error, OSError):
        return f'error: {error.filename or "input or output"}: {error.strerror or error}'
    reason = _text(error).split('\n')[0]
    return f'error: {type(error).__name__}: {reason} (--debug shows where)'


def _text(error: Exception) -> str:
    """What an error says; torch hides that of a data worker at the end of a page."""
    text = str(error).strip()
    if ' in DataLoader worker process ' not in text.partition('\n')[0]:
        return text
    last = re.split(r'\n(?=\S)', text)[-1]  # and what is indented below it
    return last.partition(': ')[2] or last


def add_config(parser: argparse.ArgumentParser) -> None:
    """The argument that names a config."""
    parser.add_argument(
        'config', help='a config file, or mmdet::FOLDER/FILE.py or sbzoo::FILE.py of the package'
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a trained model; see `load_model`."""
    add = parser.add_argument
    add('config', nargs='?', help='a config file; or, alone, a work directory or card://NAME')
    add('checkpoint', nargs='?', help='of the config: a file, card://NAME, hf:// or https://')
    add('--card', metavar='NAME', help='a model card instead; `sbzoo cards` lists them')
    add('--classes', nargs='+', metavar='NAME', help='where config and checkpoint name none')


def load_model(args: argparse.Namespace, device: str | None) -> Model:
    """The model that the options of `add_model` name.

    Raises:
        UserError: They name none, or it cannot be loaded.
    """
    from sbzoo.checkpoint.resolve import CARD
    from sbzoo.zoo import load as zoo

    is_alone = args.config and not args.checkpoint and not args.config.endswith('.py')
    if bool(args.card) == bool(args.config) or not (args.card or args.checkpoint or is_alone):
        raise UserError('give a config and a checkpoint, a work directory, or --card NAME')
    if args.checkpoint:
        return _of_config(args, device)
    if args.classes:
        raise UserError('--classes: cards and work directories have names of their own')
    if args.card or args.config.startswith(CARD):
        return zoo.load(f'{CARD}{args.card}' if args.card else args.config, device)
    return zoo.load(Path(args.config), device)


def _of_config(args: argparse.Namespace, device: str | None) -> Model:
    from sbzoo.engine.options.config import load_config
    from sbzoo.engine.options.parts import leaf
    from sbzoo.zoo.load import open_model

    cfg, given = load_config(args.config), args.classes
    if given:
        leaf(cfg.train_dataloader.dataset).metainfo = dict(classes=given)
    model = open_model(cfg, args.checkpoint, device=device)
    if given and model.classes != tuple(given):
        known = ', '.join(model.classes)
        raise UserError(f'--classes: {args.checkpoint} names its classes itself: {known}')
    return model


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options that every tool with a config has."""
    add = parser.add_argument
    add(
        '--data',
        metavar='DIR',
        help='a folder in the COCO, YOLO or VOC format, or for GANs one of images; it is checked '
        'first',
    )
    add_data_options(parser)
    add('--work-dir', metavar='DIR', help='default: work_dirs/CONFIG')
    add('--cfg-options', nargs='+', metavar='K=V', help='any other change of the config')


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """What may pass in the data of detectors."""
    add = parser.add_argument
    add(
        '--drop-empty-boxes',
        action='store_true',
        help='let boxes without area pass, which MMDetection drops (COCO train2017 has two)',
    )
    add(
        '--allow-leaks',
        action='store_true',
        help='let images of the training split be in the validation split too',
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """The option of tools that run on several devices."""
    add = parser.add_argument
    add(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what has started this, a process for each device: pytorch is torchrun',
    )


def positive_int(text: str) -> int:
    """An option's value that counts something."""
    return count(text, least=1)


def count(text: str, least: int = 0) -> int:
    """An option's value that counts something, maybe nothing."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f'{text}: give {least} or more')
    return value


def seed(text: str) -> int:
    """An option's value that random numbers follow from.

    It is half of what NumPy takes, as ranks, data workers and images add their number to it.
    """
    value = int(text)
    if not 0 <= value < SEEDS:
        raise argparse.ArgumentTypeError(f'{text}: give 0 to {SEEDS - 1}')
    return value
