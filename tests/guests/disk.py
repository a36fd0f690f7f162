"""Owns the beginning of a bootable disk: a partition table and GRUB for the BIOS, as bytes.

The layout is the one that `grub-install` leaves behind on a disk with an MBR: boot.img in sector 0 around the
partition table, core.img in the gap behind it, one partition from 1 MiB to the end.
"""

from __future__ import annotations

import struct

PARTITION_START = 1 << 20
"""Where the partition begins, in bytes."""

_SECTOR = 512
_DRIVE_CHECK = 0x66  # in boot.img: a jump around the test for BIOSes that pass a wrong drive (GRUB's boot.h)
_SIGNATURE_AT = 0x1B8  # in an MBR: the disk's signature, two zeros, four partitions of 16 bytes, 55 AA
_LINUX = 0x83
_BOOTABLE = 0x80
_BEYOND_CHS = b"\xfe\xff\xff"  # "see the LBA fields instead"


def boot_area(*, boot: bytes, core: bytes, size: int, signature: int) -> bytes:
    """The first MiB of a disk of `size` bytes, everything in front of its partition.

    `boot` is GRUB's boot.img, `core` what ``grub-mkimage -O i386-pc`` made, `signature` the disk's identity.
    """
    room = PARTITION_START - _SECTOR
    if len(boot) != _SECTOR or len(core) > room:
        raise ValueError(f"GRUB has unexpected sizes: boot.img {len(boot)} bytes, core.img {len(core)} bytes")
    code = bytearray(boot[:_SIGNATURE_AT])
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"  # grub-bios-setup does this for hard disks
    first, count = PARTITION_START // _SECTOR, (size - PARTITION_START) // _SECTOR
    partition = struct.pack("<B3sB3sII", _BOOTABLE, _BEYOND_CHS, _LINUX, _BEYOND_CHS, first, count)
    table = struct.pack("<IH64s2s", signature, 0, partition, b"\x55\xaa")
    return bytes(code) + table + core.ljust(room, b"\0")
