"""Owns the lock on the making of something that processes share: who has it, and how long others wait for it.

Not without end: who has it may have been stopped by Ctrl-Z, or be at a breakpoint in a layer, for as long as its user
is away. What is made is no more than a help, so others go on without it then, and say so.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_readonly_vm.host.folders import lock_now
from pytest_readonly_vm.host.stopped import is_stopped

_POLL = 0.05
_STOPPED = 3.0


def try_lock(path: Path) -> contextlib.ExitStack | None:
    """The lock, held until the stack is left, or None when somebody else has it.

    It is free at once when its holder dies. Where locks cannot be had nobody is kept from anything.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = lock_now(path, os.O_RDWR | os.O_CREAT)
        except OSError:
            return stack.pop_all()
        if descriptor is None:
            return None
        stack.callback(os.close, descriptor)
        stack.callback(path.unlink, missing_ok=True)
        with contextlib.suppress(OSError):  # for those who wait
            os.ftruncate(descriptor, os.pwrite(descriptor, str(os.getpid()).encode(), 0))
        return stack.pop_all()


@contextlib.contextmanager
def lock(path: Path, what: str, *, on_wait: Callable[[str], None], patience: float) -> Iterator[bool]:
    """Hold the lock, after waiting until it is free, and say whether it is held.

    It is not, if who has it stands still, or keeps it for longer than `patience`, in seconds. `on_wait` is told that
    there is waiting, and that there is no more.
    """
    held = try_lock(path)
    if held is None:
        on_wait(f"waiting for {_holder(path)}, which has been making {what} for {_age(path)} s")
        reason = ""
        deadline, stopped = time.monotonic() + patience, time.monotonic() + _STOPPED
        while (held := try_lock(path)) is None and not reason:
            time.sleep(_POLL)
            if not is_stopped(_pid(path)):
                stopped = time.monotonic() + _STOPPED
            if time.monotonic() > stopped:
                reason = f"{_holder(path)} is stopped, by Ctrl-Z or a debugger"
            elif time.monotonic() > deadline:
                reason = f"{_holder(path)} has been at it for {_age(path)} s"
        if held is None:
            on_wait(f"{reason}: going on without {what}")
    with held or contextlib.nullcontext():
        yield held is not None


def _holder(path: Path) -> str:
    return f"process {_pid(path) or '?'}"


def _age(path: Path) -> int:
    try:
        return max(0, int(time.time() - path.stat().st_mtime))
    except OSError:
        return 0


def _pid(path: Path) -> int:
    """Of who has the lock, by its own words; 0 where it has not said it yet, or is gone."""
    try:
        with path.open("rb") as file:
            said = file.read(10)
    except OSError:
        return 0
    return int(said) if said.isdigit() else 0
