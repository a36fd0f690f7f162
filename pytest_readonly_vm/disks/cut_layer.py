"""Owns a layer of a disk that is written here: a qcow2 image with some sectors, to be above others.

It has extended L2 entries (https://www.qemu.org/docs/master/interop/qcow2.html): a bit for each sector of a cluster
says whether that sector is in this image, so a cluster of which a part was written needs nothing from below.
"""

import os
import struct
import sys
from array import array

from pytest_readonly_vm.disks.write_log import SECTOR, WriteLog

_BITS = 14
CLUSTER = 1 << _BITS
"""Bytes: the least with which an image can have such entries, and 32 sectors, for each of which there is a bit."""

_SECTORS = CLUSTER // SECTOR
_ALL = (1 << _SECTORS) - 1
_ENTRIES = CLUSTER // 16
"""L2 entries in a table."""
_COUNTS = CLUSTER // 2
"""Reference counts, of 16 bits, in a block."""
_COPIED = 1 << 63
_EXTENDED_L2 = 1 << 4
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQIIB7x")
_ZEROS = bytes(CLUSTER)
_PIECE = 1 << 20


class CutLayer:
    """One that is being written, into a file that is empty. What is written later counts."""

    def __init__(self, descriptor: int, size: int) -> None:
        """:param size: bytes of the disk."""
        self._descriptor = descriptor
        self._size = size
        tables = -(-size // (CLUSTER * _ENTRIES))
        self._l1_clusters = max(-(-tables * 8 // CLUSTER), 1)
        self._tables = tables
        self._next = 2 + self._l1_clusters
        self._places: dict[int, int] = {}
        """Where in the file the data of a cluster of the disk is, in clusters."""
        self._has: dict[int, int] = {}
        """The sectors of a cluster of the disk of which there is data."""
        self._zero: dict[int, int] = {}
        """Those that are zero."""

    def apply(self, log: WriteLog, entry: int, sectors: int | None = None) -> None:
        """Put on the disk what an entry of a log did, or only its first sectors.

        :raises OSError: there is no room, or the log cannot be read.
        """
        for offset, data in log.read(entry, most=_PIECE, sectors=sectors):
            if isinstance(data, int):
                self.clear(offset, data)
            else:
                self.write(offset, data)

    def clear(self, offset: int, length: int) -> None:
        """Have zeros from a byte on; whole sectors."""
        end = offset + length
        while offset < end:
            cluster, within = divmod(offset, CLUSTER)
            part = min(CLUSTER - within, end - offset)
            self._mark(cluster, within, part, zero=True)
            offset += part

    def write(self, offset: int, data: bytes) -> None:
        """Have data from a byte on; whole sectors.

        :raises OSError: there is no room.
        """
        position, run_begin, run_place = 0, 0, -1
        length = len(data)
        while position < length:
            cluster, within = divmod(offset + position, CLUSTER)
            part = min(CLUSTER - within, length - position)
            piece = data[position : position + part] if part != length else data
            if piece == _ZEROS[:part]:
                if run_place >= 0:
                    self._put(run_place, data[run_begin:position])
                    run_place = -1
                self._mark(cluster, within, part, zero=True)
            else:
                place = self._places.get(cluster)
                if place is None:
                    place = self._places[cluster] = self._next
                    self._next += 1
                self._mark(cluster, within, part, zero=False)
                at = place * CLUSTER + within
                if run_place >= 0 and at != run_place + position - run_begin:
                    self._put(run_place, data[run_begin:position])
                    run_place = -1
                if run_place < 0:
                    run_place, run_begin = at, position
            position += part
        if run_place >= 0:
            self._put(run_place, data[run_begin:] if run_begin else data)

    def _mark(self, cluster: int, within: int, length: int, *, zero: bool) -> None:
        bits = ((1 << (length // SECTOR)) - 1) << (within // SECTOR)
        here, other = (self._zero, self._has) if zero else (self._has, self._zero)
        here[cluster] = here.get(cluster, 0) | bits
        if cluster in other:
            other[cluster] &= ~bits

    def _put(self, place: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, place)
            view, place = view[written:], place + written

    def finish(self) -> None:
        """Write what makes an image of it. Nothing may be written afterwards.

        :raises OSError: there is no room.
        """
        l1 = array("Q", bytes(8 * self._tables))
        touched: dict[int, array[int]] = {}
        for cluster in self._has.keys() | self._zero.keys():
            number, index = divmod(cluster, _ENTRIES)
            table = touched.get(number)
            if table is None:
                table = touched[number] = array("Q", _ZEROS)
            place = self._places.get(cluster)
            table[2 * index] = place * CLUSTER | _COPIED if place is not None else 0
            table[2 * index + 1] = self._zero.get(cluster, 0) << 32 | self._has.get(cluster, 0)
        for number, table in touched.items():
            self._put(self._next * CLUSTER, _big_endian(table))
            l1[number] = self._next * CLUSTER | _COPIED
            self._next += 1
        self._put(2 * CLUSTER, _big_endian(l1))
        # The blocks of reference counts count themselves.
        used = self._next
        blocks = -(-used // _COUNTS)
        while used + blocks > blocks * _COUNTS:
            blocks += 1
        counts = array("H", [1]) * (used + blocks)
        self._put(used * CLUSTER, _big_endian(counts))
        self._put(CLUSTER, _big_endian(array("Q", [(used + number) * CLUSTER for number in range(blocks)])))
        header = _HEADER.pack(
            *(b"QFI\xfb", 3, 0, 0, _BITS, self._size, 0, self._tables, 2 * CLUSTER, CLUSTER, 1, 0, 0),
            *(_EXTENDED_L2, 0, 0, 4, _HEADER.size, 0),
        )
        self._put(0, header)
        os.ftruncate(self._descriptor, (used + blocks) * CLUSTER)


def _big_endian(numbers: "array[int]") -> bytes:
    if sys.byteorder == "little":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
