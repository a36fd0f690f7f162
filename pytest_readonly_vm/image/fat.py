"""Owns the little of a FAT file system that it takes to list one folder: which files an EFI system partition has.

Source: Microsoft's FAT specification of 2005. What does not fit it is taken for empty, as whoever asks has only
guessed that there is such a file system.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Read = Callable[[int, int], bytes]
"""Bytes at an offset in the partition, both multiples of 512."""

_SECTOR = 512
_ENTRY = 32
_FOLDER, _VOLUME, _LONG_NAME = 0x10, 0x08, 0x0F
_FAT12_CLUSTERS, _FAT16_CLUSTERS = 4085, 65525
_LARGEST_FOLDER = 1 << 16
"""Bytes of a folder that are read: 2,000 entries, more than any system partition has in one."""


@dataclass(frozen=True, slots=True)
class _Geometry:
    read: Read
    sector: int
    cluster: int
    fat: int
    data: int
    bits: int
    root: tuple[int, int]
    """Where a root folder of fixed size begins and how long it is, in bytes; of FAT32 a cluster and 0."""


def file_names(read: Read, folder: Sequence[str]) -> list[str]:
    """The names in a folder, its path given in upper case, all in upper case; none if there is no such folder.

    :raises ImageError: as `read` does.
    """
    geometry = _geometry(read)
    if geometry is None:
        return []
    start, length = geometry.root
    content = geometry.read(start, length) if length else _chain(geometry, start)
    for wanted in folder:
        clusters = [cluster for name, cluster, is_folder in _entries(content) if is_folder and name == wanted]
        if not clusters:
            return []
        content = _chain(geometry, clusters[0])
    return [name for name, _, is_folder in _entries(content) if not is_folder]


def _geometry(read: Read) -> _Geometry | None:
    boot = read(0, _SECTOR)
    if len(boot) < _SECTOR or boot[510:512] != b"\x55\xaa":
        return None
    sector, per_cluster, reserved, fats, entries, small, _, short_fat = struct.unpack_from("<HBHBHHBH", boot, 11)
    large, long_fat, _, _, root = struct.unpack_from("<IIHHI", boot, 32)
    fat_sectors, sectors = short_fat or long_fat, small or large
    if sector not in (512, 1024, 2048, 4096) or not per_cluster or not fats or not fat_sectors:
        return None
    root_start = (reserved + fats * fat_sectors) * sector
    root_length = -(-entries * _ENTRY // sector) * sector
    data = root_start + root_length
    clusters = (sectors - data // sector) // per_cluster
    bits = 12 if clusters < _FAT12_CLUSTERS else 16 if clusters < _FAT16_CLUSTERS else 32
    where = (root, 0) if bits == 32 else (root_start, min(root_length, _LARGEST_FOLDER))
    return _Geometry(read, sector, per_cluster * sector, reserved * sector, data, bits, where)


def _chain(geometry: _Geometry, cluster: int) -> bytes:
    content = b""
    end = (1 << min(geometry.bits, 28)) - 8
    while 2 <= cluster < end and len(content) < _LARGEST_FOLDER:
        piece = geometry.read(geometry.data + (cluster - 2) * geometry.cluster, geometry.cluster)
        content += piece
        if len(piece) < geometry.cluster or not piece[-_ENTRY]:
            break  # the folder ends within this cluster
        cluster = _next(geometry, cluster)
    return content


def _next(geometry: _Geometry, cluster: int) -> int:
    offset = geometry.fat + cluster * geometry.bits // 8
    start = offset - offset % _SECTOR
    found = geometry.read(start, 2 * _SECTOR)[offset - start :][:4].ljust(4, b"\xff")
    (word,) = struct.unpack("<I", found)
    if geometry.bits == 12:
        return int(word >> (4 if cluster % 2 else 0)) & 0xFFF
    return int(word & (0xFFFF if geometry.bits == 16 else 0x0FFFFFFF))


def _entries(content: bytes) -> Iterator[tuple[str, int, bool]]:
    """Name, first cluster and whether it is a folder, of each entry that is in use."""
    long_name = ""
    for start in range(0, len(content) - _ENTRY + 1, _ENTRY):
        entry = content[start : start + _ENTRY]
        if not entry[0]:
            return
        attributes = entry[11]
        if entry[0] == 0xE5:
            long_name = ""
        elif attributes & 0x3F == _LONG_NAME:
            part = (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le", "replace")
            long_name = part.partition("\0")[0] + long_name  # the last part comes first
        else:
            short, suffix = (piece.decode("ascii", "replace").rstrip() for piece in (entry[:8], entry[8:11]))
            name = long_name or (f"{short}.{suffix}" if suffix else short)
            high, low = struct.unpack_from("<H4xH", entry, 20)
            if not attributes & _VOLUME:
                yield name.upper(), high << 16 | low, bool(attributes & _FOLDER)
            long_name = ""
