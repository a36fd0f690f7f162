"""Owns a disk of a log as one file on the host, brought from one cut to another by what is between."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_readonly_vm.disks.cut_rules import Survivors
from pytest_readonly_vm.disks.write_log import SECTOR, WriteLog

_PIECE = 1 << 20
_MOST_UNDONE = 64 << 20
"""Bytes of what a cut has put over that are remembered, to be put back."""


class RawDisk:
    """A raw image in a file, or a part of one. What is done to it meanwhile by others is noticed by its time."""

    def __init__(self, path: Path, log: WriteLog, part: tuple[int, int]) -> None:
        """:param path: of the file, which has the disk as it was before the log.
        :param part: which bytes of the disk it has: from one on, and how many.
        """
        self.path = path
        self.is_spoilt = False
        """Whether it cannot be brought to a cut any more."""
        self._log = log
        self._begin, self._size = part
        self._position = 0
        """Before which entry all is there."""

    def can_be(self, state: Survivors) -> bool:
        """Whether it can be brought to a state from where it is."""
        return not self.is_spoilt and self._position <= state.sure

    @contextmanager
    def at(self, state: Survivors) -> Iterator[None]:
        """It has the content of a state meanwhile.

        :raises OSError: it cannot be written, or the log not be read.
        """
        self.is_spoilt = True  # unless all goes well
        undone: list[tuple[int, bytes]] = []
        with self.path.open("r+b", buffering=0) as file:
            descriptor = file.fileno()
            for entry in range(self._position, state.sure):
                if self._log.is_write(entry):
                    self._put(descriptor, entry, None)
            self._position = state.sure
            kept = list(state.kept(self._log))
            remembers = sum(self._log.count[entry] for entry, _ in kept) * SECTOR <= _MOST_UNDONE
            for entry, sectors in kept:
                self._put(descriptor, entry, sectors, undone if remembers else None)
            before = os.fstat(descriptor)
        yield
        found = self.path.stat()
        is_untouched = (found.st_ino, found.st_mtime_ns, found.st_size) == (
            *(before.st_ino, before.st_mtime_ns, before.st_size),
        )
        if is_untouched and remembers:
            with self.path.open("r+b", buffering=0) as file:
                for offset, data in reversed(undone):
                    _write(file.fileno(), data, offset)
            self.is_spoilt = False

    def _put(
        self, descriptor: int, entry: int, sectors: int | None, undone: "list[tuple[int, bytes]] | None" = None
    ) -> None:
        for offset, data in self._log.read(entry, most=_PIECE, sectors=sectors):
            length = data if isinstance(data, int) else len(data)
            first, last = max(offset, self._begin), min(offset + length, self._begin + self._size)
            while first < last:
                end = min(last, first + _PIECE)
                piece = bytes(end - first) if isinstance(data, int) else data[first - offset : end - offset]
                if undone is not None:
                    undone.append((first - self._begin, os.pread(descriptor, end - first, first - self._begin)))
                _write(descriptor, piece, first - self._begin)
                first = end


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
