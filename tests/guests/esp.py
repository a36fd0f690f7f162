"""Owns disks that boot by UEFI, as bytes in a file: a GPT with an EFI system partition, without any code for a BIOS.

The file system in it is FAT32, made by mtools, so neither a loop device nor root is needed. GPT: UEFI specification
2.10, 5.3.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guests import tools

SECTOR = 512
ALIGNED = 1 << 20
"""Where the first partition begins, in bytes; the end of a disk of so many more has the table's copy."""

TYPE_ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
TYPE_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
TYPE_LVM = uuid.UUID("e6d6d379-f507-44c2-a23c-238f2a3df928")
_ENTRIES, _ENTRY = 128, 128
_TABLE = 1 + _ENTRIES * _ENTRY // SECTOR  # sectors of a table with its header
_SPACE = uuid.UUID("8f1b0a4e-5d1c-4c59-9a3e-677074000000")


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry of the table. `start` and `size` are in bytes."""

    kind: uuid.UUID
    start: int
    size: int
    name: str


def table(size: int, partitions: Sequence[Partition]) -> tuple[bytes, bytes]:
    """The first bytes of a disk of `size` bytes with these partitions, and the last ones."""
    entries = bytearray(_ENTRIES * _ENTRY)
    for number, one in enumerate(partitions):
        first, last = one.start // SECTOR, (one.start + one.size) // SECTOR - 1
        identity = uuid.uuid5(_SPACE, one.name)
        name = one.name.encode("utf-16-le").ljust(72, b"\0")
        entry = struct.pack("<16s16sQQQ72s", one.kind.bytes_le, identity.bytes_le, first, last, 0, name)
        entries[number * _ENTRY : (number + 1) * _ENTRY] = entry
    sectors = size // SECTOR
    protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
    mbr = bytes(446) + protective + bytes(48) + b"\x55\xaa"
    here, there = 1, sectors - 1
    primary = _header(sectors, entries, here=here, other=there, entries_at=2)
    backup = _header(sectors, entries, here=there, other=here, entries_at=sectors - _TABLE)
    return mbr + primary + bytes(entries), bytes(entries) + backup


def _header(sectors: int, entries: bytearray, *, here: int, other: int, entries_at: int) -> bytes:
    def packed(checksum: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART", 0x10000, 92, checksum, 0, here, other, 1 + _TABLE, sectors - 1 - _TABLE, _SPACE.bytes_le,
            entries_at, _ENTRIES, _ENTRY, zlib.crc32(entries),
        )  # fmt: skip

    return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")


def make_file_system(path: Path, *, size: int, files: Mapping[str, Path | str]) -> None:
    """A file with the file system of an EFI system partition. `files` are contents by their names in it."""
    with path.open("wb") as image:
        image.truncate(size)
    # The serial number makes the same bytes of the same files; -F, as a firmware may refuse FAT12 and FAT16.
    tools.run(["mformat", "-i", path, "-F", "-N", "01020304", "-v", "ESP", "-T", str(size // SECTOR), "::"])
    made: set[str] = set()
    for name, content in files.items():
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            folder = "/".join(parents[:depth])
            if folder not in made:
                tools.run(["mmd", "-i", path, f"::/{folder}"])
                made.add(folder)
        if isinstance(content, str):
            source = path.with_suffix(".file")
            source.write_text(content)
            content = source
        tools.run(["mcopy", "-i", path, content, f"::/{name}"])
