"""Owns what a disk's own tables tell of how it boots: partitions, boot code for BIOS, loaders for UEFI.

Sources: UEFI specification 2.10, 5.3 (GPT), 3.5.1.1 (removable media boot behaviour); the Discoverable Partitions
Specification for the types of partitions.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from uuid import UUID

from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.image.base import BaseImage
from pytest_readonly_vm.image.boot_catalogue import boot_images
from pytest_readonly_vm.image.content_reader import ContentReader
from pytest_readonly_vm.image.fat import file_names

_SECTOR = 512
_GPT_SECTORS = 34  # a protective MBR, the header, 128 entries
_MOST_ENTRIES = 128
_BOOT_CODE = 440  # bytes of an MBR before its disk signature
_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_ESP_OF_MBR = 0xEF
_BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")
"""Of GRUB's own partition."""
_PROTECTIVE = 0xEE
_LEGACY_BOOTABLE = 1 << 2  # of a GPT entry's attributes
_ACTIVE = 0x80
_PARTED = b"\xfa\xb8\x00\x10\x8e\xd0\xbc\x00\xb0\xb8\x00\x00\x8e\xd8\x8e\xc0"
"""How the code begins that parted writes into each MBR (libparted/labels/mbr.s)."""
_LOADERS = ("EFI", "BOOT")


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry of a table. `offset` is in bytes; `type` is a GUID in a GPT, a number in an MBR."""

    type: UUID | int
    offset: int
    is_active: bool = False
    """Whether code for a BIOS is to go on there."""


class DiskLayout:
    """What is known of a disk from outside. Its first sectors have been read; loaders are looked for when asked."""

    def __init__(self, first: bytes, reader: ContentReader, boot_images: Mapping[str, int]) -> None:
        """`boot_images` are those of a CD."""
        self._first = first
        self._reader = reader
        self._boot_images = boot_images

    @property
    def scheme(self) -> str:
        """``gpt``, ``mbr``, or ``none``: not partitioned, or a boot sector without a table."""
        if _has_gpt(self._first):
            return "gpt"
        return "mbr" if _partitions_of_mbr(self._first) else "none"

    @property
    def has_boot_code(self) -> bool:
        """Whether it has code by which a BIOS would come to a system: in the first sector, or as a CD's boot image.

        Tools that make partitions write some to any disk. That of parted looks for an active partition, and all that
        is in front of a GPT needs a partition there that is meant for a BIOS.
        """
        is_signed = self._first[510:512] == b"\x55\xaa"
        if "bios" in self._boot_images or not is_signed or not any(self._first[:_BOOT_CODE]):
            return "bios" in self._boot_images
        if self.scheme == "gpt":
            legacy = any(one.type == _BIOS_BOOT or one.is_active for one in self.partitions)
            return legacy or any(one.type != _PROTECTIVE for one in _partitions_of_mbr(self._first))
        return not self._first.startswith(_PARTED) or any(one.is_active for one in self.partitions)

    @property
    def has_zipl(self) -> bool:
        """Whether it begins as zipl writes it for IBM Z."""
        return self._first.startswith(b"zIPL")

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """In the order of the table; extended partitions are not looked into."""
        return partitions(self._first)

    @cached_property
    def loaders(self) -> tuple[str, ...]:
        """What an UEFI firmware finds on a disk that it has never seen: ``BOOTX64.EFI`` and the like, upper case.

        Those in the folder ``\\EFI\\BOOT`` of the EFI system partition, or of a CD's boot image; none where there is
        neither, or nothing that can be read in it.

        :raises ImageError: the image cannot be read.
        """
        starts = [one.offset for one in self.partitions if one.type in (_ESP, _ESP_OF_MBR)][:1]
        starts += [self._boot_images["uefi"]] if "uefi" in self._boot_images else []
        for start in starts:
            names = file_names(partial(self._read_at, start), _LOADERS)
            if found := tuple(name for name in names if name.startswith("BOOT") and name.endswith(".EFI")):
                return found
        return ()

    def _read_at(self, start: int, offset: int, length: int) -> bytes:
        return self._reader.read(start + offset, length)


def read_layout(base: BaseImage, *, qemu_img: Path) -> DiskLayout:
    """Look at a disk's first sectors; 15 ms where its format takes qemu-img to be read.

    :raises ImageError: the image cannot be read.
    """
    reader = ContentReader(base, qemu_img=qemu_img)
    return DiskLayout(reader.read(0, _GPT_SECTORS * _SECTOR), reader, boot_images(reader.read) if base.is_cd else {})


class Layouts:
    """Those of the disks of a run, each looked at once. Any thread may ask."""

    def __init__(self) -> None:
        self._read: OncePerKey[BaseImage, DiskLayout] = OncePerKey()

    def get(self, base: BaseImage | None, *, qemu_img: Path) -> DiskLayout | None:
        """How a disk boots, None without one; raises as `read_layout`."""
        if base is None:
            return None
        return self._read.get(base, lambda: read_layout(base, qemu_img=qemu_img))


def partitions(first: bytes) -> tuple[Partition, ...]:
    """Those of a disk, by its first 34 sectors, in the order of its table; extended partitions are not looked into."""
    return tuple(_partitions_of_gpt(first) if _has_gpt(first) else _partitions_of_mbr(first))


def _has_gpt(first: bytes) -> bool:
    return first[_SECTOR : _SECTOR + 8] == b"EFI PART"


def _partitions_of_gpt(first: bytes) -> list[Partition]:
    if len(first) < 2 * _SECTOR:
        return []
    start, count, size = struct.unpack_from("<QII", first, _SECTOR + 72)
    found = []
    for number in range(min(count, _MOST_ENTRIES)):
        entry = first[start * _SECTOR + number * size :][:56]
        if size < 128 or len(entry) < 56:
            break
        kind = UUID(bytes_le=entry[:16])
        if kind.int:
            sector, attributes = struct.unpack_from("<Q8xQ", entry, 32)
            found.append(Partition(kind, sector * _SECTOR, bool(attributes & _LEGACY_BOOTABLE)))
    return found


def _partitions_of_mbr(first: bytes) -> list[Partition]:
    if first[510:512] != b"\x55\xaa":
        return []
    found = []
    for start in range(446, 510, 16):
        status, kind, sector, sectors = struct.unpack_from("<B3xB3xII", first, start)
        if status not in (0, 0x80):
            return []  # boot code up to the signature, no table
        if kind and sectors:
            found.append(Partition(kind, sector * _SECTOR, status == _ACTIVE))
    return found
