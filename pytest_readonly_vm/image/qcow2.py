"""Owns the reading of qcow2 files where they lie: what is in them, and which clusters. Nothing is ever written.

Format: https://www.qemu.org/docs/master/interop/qcow2.html
"""

import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache

from pytest_readonly_vm.errors import ImageError

_MAGIC = b"QFI\xfb"
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED, _ZERO = 1 << 62, 1
_DIRTY, _COMPRESSION = 1 << 0, 1 << 3
"""Of the features without which a file cannot be read, those that make no difference here."""
_MOST_TABLES = 1 << 20
_KEPT = 64
"""Clusters that are kept unpacked, of a file that is compressed."""


class Unreadable(ImageError):
    """This disk, or what is on it, cannot be read from outside by us: somebody else has to be asked."""


class RawLayer:
    """A file that is the disk's bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, bytes | None]]:
        """What it has there, in order, as place, length and bytes; None instead of bytes where that is below."""
        yield offset, length, os.pread(self._descriptor, length, offset).ljust(length, b"\0")


class Qcow2Layer:
    """A qcow2 file, as it is when this is made: whoever writes it must stand still."""

    def __init__(self, descriptor: int) -> None:
        """:raises Unreadable: it is none, or one with features that are unknown here."""
        self._descriptor = descriptor
        header = os.pread(descriptor, 112, 0)
        if len(header) < 72 or header[:4] != _MAGIC:
            raise Unreadable("a file of the disk's is no qcow2 file")
        version, self._bits, self.size, encryption = struct.unpack_from(">I12xIQI", header, 4)
        count, self._l1_offset = struct.unpack_from(">IQ", header, 36)
        features = struct.unpack_from(">Q", header, 72)[0] if version >= 3 else 0
        method = header[104] if features & _COMPRESSION and len(header) > 104 else 0
        if features & ~(_DIRTY | _COMPRESSION) or encryption or method or not 9 <= self._bits <= 21:
            raise Unreadable("a file of the disk's is a qcow2 file with features that are not read here")
        if count > _MOST_TABLES:
            raise Unreadable("a file of the disk's is a qcow2 file with too large a table")
        self._l1 = _table(os.pread(descriptor, 8 * count, self._l1_offset))
        self._l2 = lru_cache(maxsize=None)(self._read_l2)
        self._unpacked = lru_cache(maxsize=_KEPT)(self._unpack)

    def _read_l2(self, index: int) -> Sequence[int]:
        offset = self._l1[index] & _OFFSET if index < len(self._l1) else 0
        return _table(os.pread(self._descriptor, 1 << self._bits, offset)) if offset else ()

    def allocated(self) -> Iterator[tuple[int, int]]:
        """The parts of the disk that are in this file, as offset and length in bytes, in order."""
        size, entries = 1 << self._bits, 1 << (self._bits - 3)
        for index in range(len(self._l1)):
            for number, entry in enumerate(self._l2(index)):
                if entry:
                    yield (index * entries + number) * size, size

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, bytes | None]]:
        """As of a raw file."""
        end = offset + length
        while offset < end:
            cluster, within = offset >> self._bits, offset & ((1 << self._bits) - 1)
            part = min(end - offset, (1 << self._bits) - within)
            table = self._l2(cluster >> (self._bits - 3))
            number = cluster & ((1 << (self._bits - 3)) - 1)
            entry = table[number] if number < len(table) else 0
            yield offset, part, self._content(entry, within, part)
            offset += part

    def _content(self, entry: int, within: int, length: int) -> bytes | None:
        if entry & _COMPRESSED:
            return self._unpacked(entry)[within : within + length]
        if entry & _ZERO:
            return bytes(length)
        if place := entry & _OFFSET:
            return os.pread(self._descriptor, length, place + within).ljust(length, b"\0")
        return None

    def _unpack(self, entry: int) -> bytes:
        bits = 62 - (self._bits - 8)
        offset = entry & ((1 << bits) - 1)
        sectors = (entry & (_COMPRESSED - 1)) >> bits
        packed = os.pread(self._descriptor, (sectors + 1) * 512 - offset % 512, offset)
        size = 1 << self._bits
        try:
            return zlib.decompressobj(-15).decompress(packed, size).ljust(size, b"\0")
        except zlib.error:
            raise Unreadable("a file of the disk's has a cluster that cannot be unpacked") from None


def _table(packed: bytes) -> Sequence[int]:
    table = array("Q", packed[: len(packed) // 8 * 8])
    if sys.byteorder == "little":
        table.byteswap()
    return table


Layer = RawLayer | Qcow2Layer


def layer(descriptor: int, format: str) -> Layer:
    """One file of a disk's.

    :raises Unreadable: it is in a format that is not read here.
    """
    if format == "raw":
        return RawLayer(descriptor)
    if format == "qcow2":
        return Qcow2Layer(descriptor)
    raise Unreadable(f"a file of the disk's has the format {format}")


class DiskBytes:
    """The bytes that a guest would read of a disk, of which some may be read in all.

    A guest decides what is to be read, by what it has written there; so there is an end to it.
    """

    def __init__(self, layers: Sequence[Layer], *, budget: int) -> None:
        """:param layers: the topmost first.
        :param budget: how many bytes are read at most.
        """
        self.layers = tuple(layers)
        self.size = max((one.size for one in layers), default=0)
        self._left = budget

    def read(self, offset: int, length: int, *, weight: int = 1) -> bytes:
        """So many bytes; zeros where nothing was ever written, and beyond the end.

        :param weight: how often they count, by what it costs to make something of them.
        :raises Unreadable: it cannot be read, or more was read than any sound file system needs.
        """
        self._left -= length * weight
        if self._left < 0:
            raise Unreadable("the file system would have more read of it than there is: it is damaged")
        if not 0 <= offset <= self.size:
            raise Unreadable("the file system points beyond the end of its disk: it is damaged")
        return self._read(0, offset, length)

    def _read(self, level: int, offset: int, length: int) -> bytes:
        if level == len(self.layers):
            return bytes(length)
        found = [
            self._read(level + 1, at, part) if content is None else content
            for at, part, content in self.layers[level].pieces(offset, length)
        ]
        return found[0] if len(found) == 1 else b"".join(found)
