"""Owns the guests that boot from a CD: an ISO 9660 image whose boot record leads to a boot sector. Pure.

By ECMA-119 and "El Torito" Bootable CD-ROM Format Specification 1.0, without emulation of a disk.
"""

from __future__ import annotations

import struct
from pathlib import Path

_SECTOR = 2048
_DESCRIPTORS, _CATALOG, _ROOT, _BOOT, _END = 16, 19, 20, 21, 512
_LOADED = 4  # sectors of 512 bytes


def write_cd(path: Path, boot: bytes, *, as_disk: bytes = b"", platform: int = 0) -> Path:
    """Write the image of a CD that boots into `boot`, a boot sector or for UEFI a FAT image, and return `path`.

    :param platform: 0 for an x86 BIOS, 0xEF for UEFI.
    :param as_disk: what boots if it is taken for a disk, as with the images that are for both.
    """
    image = bytearray(max(_END * _SECTOR, _BOOT * _SECTOR + len(boot)))

    def put(number: int, data: bytes) -> None:
        image[number * _SECTOR : number * _SECTOR + len(data)] = data

    put(0, as_disk)
    put(_DESCRIPTORS, _volume())
    record = b"\0CD001\1" + b"EL TORITO SPECIFICATION".ljust(64, b"\0") + struct.pack("<I", _CATALOG)
    put(_DESCRIPTORS + 1, record)
    put(_DESCRIPTORS + 2, b"\xffCD001\1")
    put(_CATALOG, _validation(platform) + struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, _LOADED, _BOOT))
    put(_BOOT, boot)
    put(_ROOT, _directory(b"\0") + _directory(b"\1"))
    path.write_bytes(image)
    return path


def _volume() -> bytes:
    volume = bytearray(_SECTOR)
    volume[0:8] = b"\1CD001\1\0"
    volume[8:72] = b" " * 64
    volume[40:44] = b"TEST"
    volume[80:88] = _both(_END)
    for offset, number in ((120, 1), (124, 1), (128, _SECTOR)):
        volume[offset : offset + 4] = struct.pack("<H", number) + struct.pack(">H", number)
    volume[156:190] = _directory(b"\0")
    volume[881] = 1
    return bytes(volume)


def _directory(name: bytes) -> bytes:
    """A record of the root directory; it has no files."""
    sized = _both(_ROOT) + _both(_SECTOR)
    return bytes([34, 0]) + sized + bytes([126, 1, 1, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 1, 1]) + name


def _both(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)


def _validation(platform: int) -> bytes:
    """The first entry of the boot catalogue: its words add up to zero."""
    entry = bytearray(32)
    entry[0], entry[1], entry[30], entry[31] = 1, platform, 0x55, 0xAA
    entry[28:30] = struct.pack("<H", -sum(struct.unpack("<16H", entry)) & 0xFFFF)
    return bytes(entry)
