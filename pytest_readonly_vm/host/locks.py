"""Owns the locks that processes have on files and folders: tried, waited for, signed, and removed with what they lock.

They are the kernel's, flock(2), and end with the process, however that ends: whoever can take one knows that its holder
is dead or has given it back. One counts only as long as its path still leads to what was locked: a lock file that was
removed and made again is another file, which others may have locked meanwhile.
"""

import contextlib
import fcntl
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02
_STOPPED = 3.0
_STOPPED_STATES = ("T", "t")  # proc(5): by Ctrl-Z or SIGSTOP, and by a debugger

Room = Callable[[], tuple[Set[int], Set[int]]]
"""Tells which processes have room to build in, and which wait for some, by their ids."""

_building: set[Path] = set()
"""The locks of what this process builds at the moment."""


class Lock:
    """A lock that is held until `release` or the end of the process. A context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        """Of the file or folder that is locked, which is open as long as it is."""
        self._owner = os.getpid()
        self._is_held = True

    def sign(self) -> None:
        """Write into the file who holds it, for those who wait; see `holder_of`. Whoever cannot stays unknown."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, os.pwrite(self.descriptor, str(os.getpid()).encode(), 0))

    def remove(self) -> None:
        """Remove the file, then `release` its lock: who gets that now learns that it is the file no more.

        :raises OSError: it cannot be removed; the lock is released.
        """
        try:
            if self._owner == os.getpid():
                self.path.unlink(missing_ok=True)
        finally:
            self.release()

    def release(self) -> None:
        """Give it back. Nothing happens the second time. A forked child gives back no more than its descriptor."""
        if self._is_held:
            try:
                if self._owner == os.getpid():
                    fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # closing does not do it while a child has it, too
            finally:
                self._is_held = False
                os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has signed a lock file."""

    pid: int
    """0 where nobody has signed it yet, or it is gone."""
    since: float
    """Seconds since the epoch."""


def try_lock(path: Path, *, make: int | None = None, shared: bool = False) -> Lock | None:
    """The lock on a file or folder, or None when it is held by another, or was removed at this moment.

    A link is not followed.

    :param make: the mode of a file to be made where there is none.
    :param shared: whether others may hold it too, if they say the same.
    :raises OSError: it cannot be opened, or its file system has no locks.
    """
    descriptor = _open(path, make)
    # An interrupt that comes after the lock, and before it is in the hands of who releases it, closes the file.
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if is_still(path, descriptor):
            return Lock(path, descriptor)
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def wait_for_lock(
    path: Path,
    *,
    make: int | None = None,
    shared: bool = False,
    patience: float = math.inf,
    give_up: Callable[[], bool] = lambda: False,
) -> Lock | None:
    """The same when it is free, or None after so many seconds, or when `give_up`, asked again and again, says so.

    Looks every 20 ms at most: the kernel has no wait for a lock that ends at a deadline.

    :raises OSError: as `try_lock` does.
    """
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    while (lock := try_lock(path, make=make, shared=shared)) is None:
        if time.monotonic() > deadline or give_up():
            return None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return lock


def new_locked_folder(parent: Path, *, prefix: str = "") -> Lock:
    """A new folder of mode 0700 with a name of its own, locked.

    :raises OSError: it cannot be made.
    """
    while True:
        path = parent / f"{prefix}{secrets.token_hex(4)}"
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        with contextlib.suppress(FileNotFoundError):  # who sweeps may take it for a dead one's before it is locked
            if (lock := try_lock(path)) is not None:
                return lock


def remove_if_unlocked(path: Path) -> bool:
    """Remove a lock file that nobody holds, and say whether it is gone."""
    try:
        lock = try_lock(path)
        if lock is not None:
            lock.remove()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not os.path.lexists(path)


def holder_of(path: Path) -> Holder:
    """Who has signed a lock file last: its holder, if it is held."""
    try:
        with path.open("rb") as file:
            said, since = file.read(10), os.fstat(file.fileno()).st_mtime
    except OSError:
        return Holder(0, time.time())
    return Holder(int(said) if said.isdigit() else 0, since)


def is_still(path: Path, descriptor: int) -> bool:
    """Whether a path leads to what was opened by it: it may have been removed, or replaced by another."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def is_stopped(pid: int) -> bool:
    """Whether another process stands still at this moment, until it is let go on; one that there is not does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].startswith(_STOPPED_STATES)
    except OSError:
        return False


@contextlib.contextmanager
def build_lock(
    path: Path, what: str, *, on_wait: Callable[[str], None], patience: float, room: Room = lambda: (set(), set())
) -> Iterator[bool]:
    """Wait while another process builds `what`, and say whether it is for this one to build now, alone.

    It is not, if the other stands still, or takes longer than `patience`, in seconds; and it is where locks cannot be
    had. `on_wait` is told that there is waiting, and that there is no more.

    Nobody waits without end: who builds may have been stopped by Ctrl-Z, or be at a breakpoint in a layer, for as long
    as its user is away. Or it waits for room, by its `room`, that comes only when this one goes on. What is built is no
    more than a help, so others go on without it then.
    """
    try:
        lock = try_lock(path, make=0o600) or _wait_for_builder(path, what, on_wait, patience, room)
    except OSError:
        yield True
        return
    if lock is None:
        yield False
        return
    lock.sign()
    _building.add(path)
    try:
        yield True
    finally:
        _building.discard(path)
        lock.remove()


def _wait_for_builder(
    path: Path, what: str, on_wait: Callable[[str], None], patience: float, room: Room
) -> Lock | None:
    last_going = time.monotonic()

    def may_wait_for_us(pid: int) -> bool:
        """For our room, or for that of one that waits for what we build."""
        having, waiting = room()
        return pid in waiting and (os.getpid() in having or bool(_building))

    def stands_still() -> bool:
        nonlocal last_going
        pid = holder_of(path).pid
        if not (is_stopped(pid) or may_wait_for_us(pid)):
            last_going = time.monotonic()
        return time.monotonic() > last_going + _STOPPED

    on_wait(f"waiting for {_builder(path)}, which has been making {what} for {_age(path)} s")
    lock = wait_for_lock(path, make=0o600, patience=patience, give_up=stands_still)
    if lock is None:
        pid = holder_of(path).pid
        if is_stopped(pid):
            reason = "is stopped, by Ctrl-Z or a debugger"
        elif may_wait_for_us(pid):
            reason = "waits for room, maybe for that of this process"
        else:
            reason = f"has been at it for {_age(path)} s"
        on_wait(f"{_builder(path)} {reason}: going on without {what}")
    return lock


def _builder(path: Path) -> str:
    return f"process {holder_of(path).pid or '?'}"


def _age(path: Path) -> int:
    return max(0, int(time.time() - holder_of(path).since))


def _open(path: Path, make: int | None) -> int:
    # Without O_NONBLOCK a FIFO that somebody has put there would be waited for.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | flags | (0 if make is None else os.O_CREAT), make or 0)
    except IsADirectoryError:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | flags)
