"""Owns the form in which what is under way on a network is kept, while its machines are frozen."""

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

Entry = tuple[str, int, float, bytes]
"""A packet that came ``from`` a port, or will be due ``to`` one, its number, in so many seconds."""

_HEAD = struct.Struct(">?IdI")


def write_under_way(target: BinaryIO, entries: Iterable[Entry]) -> int:
    """Write them one after another; how many they are."""
    count = 0
    for way, port, seconds, packet in entries:
        target.write(_HEAD.pack(way == "to", port, seconds, len(packet)) + packet)
        count += 1
    return count


def read_under_way(source: BinaryIO) -> Iterator[Entry]:
    """Read them from the beginning of a file."""
    source.seek(0)
    while len(head := source.read(_HEAD.size)) == _HEAD.size:
        is_to, port, seconds, size = _HEAD.unpack(head)
        yield "to" if is_to else "from", port, seconds, source.read(size)
