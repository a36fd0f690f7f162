"""Owns the time that processes have had of a processor, by the kernel's own accounts of it, in seconds."""

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path


def own() -> float:
    """What all threads of this process have used."""
    return time.process_time()


def of_children() -> float:
    """What its children have used: those that live, and those that have ended, with what these have waited for."""
    used = 0.0
    for pid in _children():
        with contextlib.suppress(OSError):  # it is waited for in this moment, and then counts as ended
            used += time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) has it, which Python has not
    return used + of_ended()


def of_ended() -> float:
    """What the children that have ended have used, with what these have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_all() -> float:
    """What this process and its children have used."""
    return own() + of_children()


def of_thread(pid: int, thread: int) -> float:
    """What a thread of any process has used; while it runs, up to a tick of the kernel's clock is missing."""
    on_processor, *_ = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()
    return int(on_processor) / 1e9


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ends
            yield from map(int, (task / "children").read_text().split())
