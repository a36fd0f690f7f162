"""Owns the private folder of a run: what temporary files and sockets live in, and the sweeping of what dead runs left.

The setting ``tmpdir``, ``$TMPDIR`` or ``/var/tmp``, then ``pytest-readonly-vm-UID/RUN/``: on a disk, because the
guests' writes go there, and short, because a socket's path has at most 107 bytes. A run holds a lock on its folder as
long as it lives, so whoever can take that lock knows that the run is dead, however it died.
"""

import contextlib
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Self

from pytest_readonly_vm.errors import HostError, OutOfSpace
from pytest_readonly_vm.host.folders import make_private
from pytest_readonly_vm.host.locks import new_locked_folder, try_lock
from pytest_readonly_vm.host.os_errors import explain

COOKIE = "READONLY_VM_RUN"
"""Environment variable that a QEMU carries: the folder of the run that it belongs to."""

_ENOUGH = 64 << 20


class Workspace:
    """A run's folder, mode 0700, in use until `close` removes it with everything in it."""

    def __init__(self, place: Path | None = None) -> None:
        """Sweep what dead runs of this user left, then make the folder, below `place` or the usual one.

        :raises HostError: the folder above cannot be made or is not this user's alone, or QEMU cannot be told its name.
        """
        parent = _private_parent((place or Path(os.environ.get("TMPDIR") or "/var/tmp")).absolute())
        _sweep(parent)
        self._lock = new_locked_folder(parent)
        self.path = self._lock.path

    def machine_folder(self, number: int) -> Path:
        """A new folder for one machine.

        :raises OutOfSpace: fewer than 64 MiB are free.
        """
        self.require_space()
        folder = self.path / str(number)
        folder.mkdir(mode=0o700)
        return folder

    def require_space(self) -> None:
        """:raises OutOfSpace: fewer than 64 MiB are free, which a booting guest can fill with its first writes."""
        free = shutil.disk_usage(self.path).free
        if free < _ENOUGH:
            raise OutOfSpace(
                f"{self.path.parent.parent} has {free >> 20} MiB free, too little for a guest's temporary writes; "
                "make room or use --vm-tmpdir=DIR on a larger disk"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def _private_parent(place: Path) -> Path:
    parent = place / f"pytest-readonly-vm-{os.getuid()}"
    advice = "use --vm-tmpdir=DIR with a folder that can be written"
    try:
        if not stat.S_ISDIR(place.stat().st_mode):
            raise HostError(f"no folder for temporary files: {place} is none; {advice}")
        str(place).encode()
    except FileNotFoundError:
        raise HostError(f"no folder for temporary files: {place} is not there; {advice}") from None
    except OSError as error:
        raise HostError(f"no folder for temporary files: {explain(error)}; {advice}") from None
    except UnicodeEncodeError:  # what QEMU is told while it runs is JSON, and that is UTF-8
        raise HostError(f"no folder for temporary files: {place} is a name that is not UTF-8; {advice}") from None
    make_private(parent, advice=advice)
    return parent


def _sweep(parent: Path) -> None:
    for folder in parent.iterdir():
        try:
            lock = try_lock(folder)
        except OSError:  # another run has just removed it
            continue
        if lock is not None:
            with lock:
                _kill_carriers(folder)
                shutil.rmtree(folder, ignore_errors=True)


def _kill_carriers(folder: Path) -> None:
    """Kill processes that carry the dead run's cookie: those that lost their confinement, as a child of QEMU may."""
    cookie = f"{COOKIE}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        # The descriptor comes first: it stays with this process even when its id becomes another's.
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(int(entry.name))
            try:
                if cookie in (entry / "environ").read_bytes().split(b"\0"):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
