"""Owns the reading of what QEMU's `blklogwrites` has written of a disk: each write, flush and discard, in order.

The format is that of Linux's dm-log-writes
(https://docs.kernel.org/admin-guide/device-mapper/log-writes.html): a superblock, then entries, each a header in a
sector of its own and, for a write, its data behind it. The superblock's count is not looked at: it lags. An entry is
there before the guest hears that its request is done, and after it is done on the disk.
"""

import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator

SECTOR = 512
"""Bytes: what this software has QEMU count in."""

FLUSH, FUA, DISCARD = 1, 2, 4
_KNOWN = FLUSH | FUA | DISCARD
_HEADER = struct.Struct("<QQQQ")
_SUPER = struct.Struct("<QQQL")
_MAGIC, _VERSION = 0x6A736677736872, 1
_PADDING = bytes(SECTOR - _HEADER.size)
_WINDOW = 1 << 16


class LogDamaged(Exception):
    """There is something in the log that QEMU does not write; the text says where."""


class WriteLog:
    """The entries of a log, as columns: a busy guest makes millions. Their data is read when it is wanted."""

    def __init__(self, descriptor: int, sectors: int) -> None:
        """Walk a log to its end.

        :param descriptor: of the log; it must stay open, and is not closed here.
        :param sectors: how many the disk has.
        :raises LogDamaged: it is none, or not whole between its beginning and its end.
        :raises OSError: it cannot be read.
        """
        self.descriptor = descriptor
        self.sector, self.count, self.data = array("Q"), array("Q"), array("Q")
        """Of each entry: where on the disk it begins, how many sectors it has, where in the log its data is, bytes."""
        self.flags = array("B")
        self.flushes = array("Q")
        """The numbers of the entries that are flushes."""
        self.is_whole = True
        """Whether it ends where an entry does. Where QEMU was killed the last one may be torn; it is left out."""
        self._walk(sectors)

    def __len__(self) -> int:
        return len(self.flags)

    def _walk(self, sectors: int) -> None:
        size = os.fstat(self.descriptor).st_size
        position = SECTOR
        window, begin = b"", 0
        if size >= SECTOR:
            self._check_superblock()
        while position < size:
            if not begin <= position <= begin + len(window) - SECTOR:
                window, begin = os.pread(self.descriptor, _WINDOW, position), position
            start = position - begin
            header = window[start : start + SECTOR]
            if len(header) < SECTOR or header == bytes(SECTOR):
                # Nothing was written here yet: the log of a QEMU that was killed. What is behind it cannot be found.
                self.is_whole = False
                return
            sector, count, flags, length = _HEADER.unpack_from(header)
            if header[_HEADER.size :] != _PADDING or flags & ~_KNOWN or length:
                raise LogDamaged(f"there is no entry at byte {position} of the log")
            if sector + count > sectors:
                raise LogDamaged(f"the entry at byte {position} of the log is beyond the end of the disk")
            position += SECTOR
            stored = 0 if flags & (DISCARD | FLUSH) else count * SECTOR
            if position + stored > size:
                self.is_whole = False
                return
            if flags & FLUSH:
                self.flushes.append(len(self.flags))
            self.sector.append(sector)
            self.count.append(count)
            self.data.append(position)
            self.flags.append(flags)
            position += stored

    def _check_superblock(self) -> None:
        """What there is of it: QEMU writes none before the first flush."""
        magic, version, _, size = _SUPER.unpack(os.pread(self.descriptor, _SUPER.size, 0))
        if (magic, version, size) not in ((_MAGIC, _VERSION, SECTOR), (0, 0, 0)):
            raise LogDamaged("it does not begin as such a log does")

    def cut_short(self, entries: int) -> None:
        """Have only so many entries."""
        for column in (self.sector, self.count, self.data, self.flags):
            del column[entries:]
        del self.flushes[bisect_left(self.flushes, entries) :]

    def is_write(self, entry: int) -> bool:
        """Whether it changes the disk's content: a write of data or zeros, or a discard."""
        return not self.flags[entry] & FLUSH and bool(self.count[entry])

    def has_data(self, entry: int) -> bool:
        return self.is_write(entry) and not self.flags[entry] & DISCARD

    def moment(self, size: int) -> int:
        """How many entries had begun to be written when the log had so many bytes."""
        return bisect_left(self.data, size + SECTOR)

    def read(self, entry: int, *, most: int, sectors: int | None = None) -> Iterator[tuple[int, bytes | int]]:
        """What an entry puts on the disk, in pieces: the byte there, and the data, or of zeros only how many.

        :param most: bytes of a piece.
        :param sectors: only so many, from its beginning.
        :raises OSError: the log cannot be read.
        """
        offset = self.sector[entry] * SECTOR
        left = (self.count[entry] if sectors is None else min(sectors, self.count[entry])) * SECTOR
        if self.flags[entry] & DISCARD:
            yield offset, left
            return
        position = self.data[entry]
        end = position + left
        while position < end:
            if end - position > most and (hole := self._hole(position, end)):
                yield offset, hole
                position, offset = position + hole, offset + hole
                continue
            data = os.pread(self.descriptor, min(most, end - position), position)
            if not data:
                raise LogDamaged(f"the log ends at byte {position}")
            yield offset, data
            position, offset = position + len(data), offset + len(data)

    def _hole(self, position: int, end: int) -> int:
        """How many bytes from there on are a hole in the file, which zeros that QEMU was told of by number are."""
        try:
            found = min(os.lseek(self.descriptor, position, os.SEEK_DATA), end)
        except OSError:  # there is no data any more
            found = end
        return (found - position) // SECTOR * SECTOR
