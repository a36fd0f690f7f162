"""Owns the wait for what another process is building at this moment: one builds, and the others use what it has built.

Not without end: who builds it may have been stopped by Ctrl-Z, or be at a breakpoint in a layer, for as long as its
user is away. What is built is no more than a help, so others go on without it then, and say so.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_readonly_vm.host.locks import Lock, holder_of, try_lock, wait_for_lock
from pytest_readonly_vm.host.process_state import is_stopped

_STOPPED = 3.0


@contextlib.contextmanager
def build_lock(path: Path, what: str, *, on_wait: Callable[[str], None], patience: float) -> Iterator[bool]:
    """Wait while another process builds `what`, and say whether it is for this one to build now, alone.

    It is not, if the other stands still, or takes longer than `patience`, in seconds; and it is where locks cannot be
    had. `on_wait` is told that there is waiting, and that there is no more.
    """
    try:
        lock = try_lock(path, make=0o600) or _wait(path, what, on_wait, patience)
    except OSError:
        yield True
        return
    if lock is None:
        yield False
        return
    lock.sign()
    try:
        yield True
    finally:
        lock.remove()


def _wait(path: Path, what: str, on_wait: Callable[[str], None], patience: float) -> Lock | None:
    last_going = time.monotonic()

    def stands_still() -> bool:
        nonlocal last_going
        if not is_stopped(holder_of(path).pid):
            last_going = time.monotonic()
        return time.monotonic() > last_going + _STOPPED

    on_wait(f"waiting for {_name(path)}, which has been making {what} for {_age(path)} s")
    lock = wait_for_lock(path, make=0o600, patience=patience, give_up=stands_still)
    if lock is None:
        is_still = is_stopped(holder_of(path).pid)
        reason = "is stopped, by Ctrl-Z or a debugger" if is_still else f"has been at it for {_age(path)} s"
        on_wait(f"{_name(path)} {reason}: going on without {what}")
    return lock


def _name(path: Path) -> str:
    return f"process {holder_of(path).pid or '?'}"


def _age(path: Path) -> int:
    return max(0, int(time.time() - holder_of(path).since))
