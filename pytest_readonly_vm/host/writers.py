"""Owns the news of who opens a file for writing: what writes through a mapping need not change any of a file's times.

Whoever has it open at this moment is told by a lease, whoever has had it since and closed it by inotify; so nobody is
kept waiting, as by a lease that is held. A mapping counts as open for as long as it is there.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import signal

_F_SETSIG = 10  # fcntl.h; not in Python's module
_IN_CLOSE_WRITE = 0x8
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_ROOM = 1 << 14
_libc = ctypes.CDLL(None, use_errno=True)


def has_writer(descriptor: int) -> bool:
    """Ask the kernel for a read lease, which it grants only while nobody has the file open for writing: fcntl(2).

    `descriptor` must be read-only. The kernel gives leases to a file's owner and to root, on most file systems; where
    it does not, the answer is no.
    """
    try:
        # A writer that comes in this very moment is announced by a signal whose default would end this process.
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


class Writers:
    """Whether a file was open for writing since the watch began, by inotify(7)."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` must be read-only, and stay open. Where there is no watch to be had, `has_writer` is all."""
        self._file = descriptor
        self._came = False
        self._events: int = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        if self._events >= 0:
            _libc.inotify_add_watch(self._events, b"/proc/self/fd/%d" % descriptor, _IN_CLOSE_WRITE)

    def came(self) -> bool:
        """Whether anybody has had it open since then, or has now. Costs a few microseconds."""
        if self._events >= 0:
            with contextlib.suppress(BlockingIOError):
                self._came = bool(os.read(self._events, _ROOM)) or self._came
        self._came = self._came or has_writer(self._file)
        return self._came

    def close(self) -> None:
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
