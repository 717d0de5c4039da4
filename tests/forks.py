"""Processes forked from one that has imported everything, as an import of it takes seconds."""

import gc
import os
import runpy
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FORK = get_context('forkserver')  # pytest's own process has threads by now, which no fork survives
OURS = 'sbzoo.registry', 'sbzoo.tools.train'
HOSTS = 'mmdet.models', 'mmdet.datasets', 'mmdet.evaluation'
OTHERS = 'matplotlib.pyplot', 'skimage.color', 'torch.utils.tensorboard', 'yapf.yapflib.yapf_api'
FORK.set_forkserver_preload([*OURS, *HOSTS, *OTHERS])


class Ended(NamedTuple):
    """How a process has ended."""

    status: int
    printed: str
    errors: str


def fork(*mains: Callable[[], None]) -> list[Ended]:
    """Run functions, which are pickled, at the same time."""
    with TemporaryDirectory() as folder:
        paths = [(Path(folder, f'{i}.out'), Path(folder, f'{i}.err')) for i in range(len(mains))]
        processes = [
            FORK.Process(target=_run, args=of_one) for of_one in zip(mains, paths, strict=True)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(100)
            process.kill()
            process.join()
        texts = [[path.read_text() for path in of_one] for of_one in paths]
    return [Ended(process.exitcode, *text) for process, text in zip(processes, texts, strict=True)]


def _run(main: Callable[[], None], outputs: tuple[Path, Path]) -> None:
    import torch
    from yapf.yapflib import yapf_api

    gc.freeze()
    torch.set_num_threads(1)
    yapf_api.FormatCode = lambda text, **_: (text, True)  # most of the time of so short a run
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    main()


def script(path: str | Path, *arguments: object) -> Callable[[], None]:
    """`python PATH ARGUMENTS` in the root of the repository."""
    return partial(_script, [*map(str, (path, *arguments))])


def _script(argv: list[str]) -> None:
    os.chdir(ROOT)
    sys.argv = argv
    runpy.run_path(argv[0], run_name='__main__')


def tool(name: str, *arguments: object) -> Ended:
    """Run a tool, as its user does, to its end."""
    (ended,) = fork(script(f'tools/{name}.py', *arguments))
    return ended
