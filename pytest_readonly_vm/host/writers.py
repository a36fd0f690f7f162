"""Owns the news of who opens a file for writing: what writes through a mapping need not change any of a file's times.

Whoever has it open at this moment is told by a lease, whoever has had it since and closed it by inotify; so nobody is
kept waiting, as by a lease that is held. A mapping counts as open for as long as it is there.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import signal
import struct
from pathlib import Path

_F_SETSIG = 10  # fcntl.h; not in Python's module
_IN_CLOSE_WRITE = 0x8
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_ROOM = 1024 * _EVENT.size
_TELLING = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs")
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


def times_show_writes(descriptor: int) -> bool:
    """Whether a file's times change with each page that a mapping begins to write: so it is on the usual disks."""
    mount = re.search(r"^mnt_id:\s*(\d+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)
    lines = (line.split() for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines())
    return any(mount and line[0] == mount[1] and line[line.index("-") + 1] in _TELLING for line in lines)


class WriteWatch:
    """Which of several files have been open for writing since the watch of each began: one inotify(7) for all of them.

    A user may have 128 of these. Where none is to be had, `has_writer` is all that is asked.
    """

    def __init__(self) -> None:
        self._events: int = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        self._written: set[int] = set()

    def add(self, descriptor: int) -> int:
        """Begin to watch a file, which must be open read-only and stay so; the number by which it is asked for."""
        return int(_libc.inotify_add_watch(self._events, b"/proc/self/fd/%d" % descriptor, _IN_CLOSE_WRITE))

    def had_writer(self, number: int, descriptor: int) -> bool:
        """Whether anybody has had this file open for writing since then, or has now. Costs some microseconds."""
        if self._events >= 0:
            with contextlib.suppress(BlockingIOError):
                # Without names, as they are of files and not of folders, all events have the same length.
                self._written |= {event[0] for event in _EVENT.iter_unpack(os.read(self._events, _ROOM))}
        if number not in self._written and has_writer(descriptor):
            self._written.add(number)
        return number in self._written

    def close(self) -> None:
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
