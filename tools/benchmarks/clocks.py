"""Time and peak memory of calls that take turns, on a CPU or a GPU."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from rich.progress import track

CPU = torch.device('cpu')
AHEAD = 3 * 10**7  # cycles for which a GPU sleeps while calls are queued: 15 ms or more
QUEUED = 10  # calls, of up to a hundred kernels each: a GPU has room for a thousand

Call = Callable[[], object]
Name = TypeVar('Name', bound=Hashable)


class Cost(NamedTuple):
    """What one call costs."""

    seconds: float
    peak: int  # bytes that it adds to what the process has of its device, at most


def wall(call: Call, least: float = 0.005) -> float:
    """Seconds of a call, from as many in a row as `least` seconds hold."""
    wait()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start <= least or not calls:
        call()
        calls += 1
    wait()
    return (time.perf_counter() - start) / calls


def kernels(call: Call) -> float:
    """Seconds of a call on a GPU alone, without those of the host, which queues calls beforehand.

    If a call waits for the GPU, the host's time is in it after all.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(AHEAD)
    start.record()
    for _ in range(QUEUED):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / QUEUED


def milliseconds(
    calls: Mapping[Name, Call], rounds: int, clock: Callable[[Call], float] = wall
) -> dict[Name, float]:
    """The median time of each; they take turns, so that a drift of the machine meets them all.

    Args:
        calls: By name. Each is made once before, which compiles what is to be compiled.
        rounds: How often each is timed.
        clock: What times a call, in seconds.
    """
    for call in calls.values():
        call()
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in track(range(rounds), 'rounds', transient=True):
        for name, call in calls.items():
            times[name].append(clock(call))
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}


def cost(call: Call, device: torch.device = CPU) -> Cost:
    """Time and memory of a call."""
    wait()
    before, start = reset_peak(device), time.perf_counter()
    call()
    wait()
    return Cost(time.perf_counter() - start, peak(device) - before)


def wait() -> None:
    """Until a GPU, if this process uses one, has done what it was told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def reset_peak(device: torch.device = CPU) -> int:
    """Let the peak begin at what is taken now, and return that in bytes."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that it counts again
    Path('/proc/self/clear_refs').write_text('5')
    return _resident('VmRSS')


def peak(device: torch.device = CPU) -> int:
    """The most bytes since the reset: those that torch has of a GPU, or resident ones."""
    return torch.cuda.max_memory_allocated() if device.type == 'cuda' else _resident('VmHWM')


def _resident(key: str) -> int:
    status = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def keep_freed_memory() -> None:
    """As in a network, where a layer does not pay for the page faults of every tensor anew.

    The C library of Linux gives memory back beyond twice the largest block under 32 MB that was
    freed so far, so that beside the small tensors of one layer alone nearly nothing is kept.
    """
    torch.empty(30 * 2**18)
