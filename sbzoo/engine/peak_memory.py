"""Memory of a process: how much is free, how much it takes at its peak, and a limit to it.

On a GPU torch's own count. On a CPU the anonymous resident memory, as Linux tells it: without the
pages of libraries and other files, which are read when they are first used and can be dropped. The
limit is what the kernel refuses beyond, so that a training that is too large ends with an error of
its own and takes nothing down with it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sbzoo.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None

GB = 1e9
STATUS = '/proc/self/status'
UNIT = 1024  # bytes, of the figures in /proc
CGROUP = Path('/sys/fs/cgroup')  # of a container, version 2
TOO_LARGE = re.compile(  # torch's words, the standard library's and oneDNN's
    r'out of memory|allocat|bad_alloc|not enough memory|could not create a (primitive|memory)',
    re.IGNORECASE,
)


def on_gpu() -> bool:
    """Whether trainings here run on a GPU."""
    return torch.cuda.is_available()


def free() -> int:
    """The bytes that a training may take: of the GPU, or of the machine without swapping.

    Raises:
        UserError: This system does not tell.
    """
    if on_gpu():
        return torch.cuda.mem_get_info()[0]
    return min([_told('/proc/meminfo', 'MemAvailable'), *_left_in_container()])


def _left_in_container() -> list[int]:
    """What the limit of a container leaves, where there is one."""
    most, used = CGROUP / 'memory.max', CGROUP / 'memory.stat'
    if not (most.is_file() and used.is_file()) or most.read_text().strip() == 'max':
        return []
    return [int(most.read_text()) - int(re.search(r'^anon (\d+)$', used.read_text(), re.M)[1])]


def reset_peak() -> int:
    """Let the peak begin at what is taken now, and return that in bytes."""
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path('/proc/self/clear_refs').write_text('5')
    return _told(STATUS, 'RssAnon')


def peak() -> int:
    """The most bytes that this process has taken since the reset."""
    if on_gpu():
        return torch.cuda.max_memory_allocated()
    return _told(STATUS, 'VmHWM') - _told(STATUS, 'RssFile') - _told(STATUS, 'RssShmem')


def limit(more: int) -> None:
    """Let this process take `more` bytes of the machine's memory beyond what it has, and no more.

    A GPU has a limit of its own.
    """
    if resource and not on_gpu():
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = _told(STATUS, 'VmData') + more
        if most == resource.RLIM_INFINITY or allowed < most:
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))


def is_too_large(error: Exception) -> bool:
    """Whether an error says that memory was refused."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(TOO_LARGE.search(str(error)))


def _told(file: str, name: str) -> int:
    """A figure of Linux, in bytes."""
    path = Path(file)
    found = path.is_file() and re.search(rf'^{name}:\s+(\d+) kB', path.read_text(), re.MULTILINE)
    if not found:
        raise UserError(f'{file} tells no {name}: the memory of a CPU is measured on Linux alone')
    return int(found[1]) * UNIT
