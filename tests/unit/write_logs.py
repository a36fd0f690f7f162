"""Owns logs of writes as QEMU's `blklogwrites` has them, made by hand."""

import struct

SECTOR = 512
ONE = b"one " * 128
"""A sector."""


def superblock(*, count: int = 0, size: int = SECTOR) -> bytes:
    return struct.pack("<QQQL", 0x6A736677736872, 1, count, size).ljust(SECTOR, b"\0")


def entry(sector: int = 0, count: int = 0, *, flags: int = 0, length: int = 0, data: bytes = b"") -> bytes:
    return struct.pack("<QQQQ", sector, count, flags, length).ljust(SECTOR, b"\0") + data
