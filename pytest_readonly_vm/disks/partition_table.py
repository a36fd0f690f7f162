"""Owns where on a disk its partitions are, by its first sectors. What they say may be anything. Pure."""

import struct

FIRST = 34 * 512
"""Bytes from the beginning of a disk in which tables are: an MBR, or a GPT with the usual 128 entries."""

_SECTOR = 512
_PROTECTIVE = 0xEE


def partition(first: bytes, number: int, size: int) -> tuple[int, int] | None:
    """At which byte a partition begins and how many it has; None if there is none of that number within the disk.

    :param first: the disk's first bytes, as many as `FIRST`.
    :param size: bytes of the disk.
    """
    if number < 1 or first[510:512] != b"\x55\xaa":
        return None
    if first[_SECTOR : _SECTOR + 8] == b"EFI PART":
        begin = 2 * _SECTOR + 128 * (number - 1)
        entry = first[begin : begin + 128]
        if number > 128 or len(entry) < 128 or not any(entry[:16]):
            return None
        start, last = struct.unpack_from("<QQ", entry, 32)
        count = last + 1 - start
    else:
        entry = first[446 + 16 * (number - 1) :][:16]
        if number > 4 or not entry[4] or entry[4] == _PROTECTIVE:
            return None
        start, count = struct.unpack_from("<II", entry, 8)
    if count < 1 or (start + count) * _SECTOR > size:
        return None
    return start * _SECTOR, count * _SECTOR
