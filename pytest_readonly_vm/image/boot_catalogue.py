"""Owns what a CD's boot catalogue says of what boots it: by which firmware, and where that is.

By the "El Torito" Bootable CD-ROM Format Specification 1.0, and UEFI 2.10, 13.3.2.1, for the platform of UEFI.
"""

import struct
from collections.abc import Callable

from pytest_readonly_vm.image.network_file import ChainFile

_SECTOR = 2048
_BOOT_RECORD = 17  # the second volume descriptor
_MARK = b"\0CD001\1EL TORITO SPECIFICATION"
_CATALOGUE = 0x47
_ENTRY = 32
_IMAGE = 8
_BOOTABLE = 0x88
_SECTIONS = (0x90, 0x91)
_PLATFORMS = {0: "bios", 0xEF: "uefi"}


def boot_images(read: Callable[[int, int], bytes]) -> dict[str, int]:
    """Where the image is that each kind of firmware boots, ``bios`` and ``uefi``, in bytes from the CD's beginning.

    :param read: bytes of the CD at an offset; raises what it raises.
    """
    record = read(_BOOT_RECORD * _SECTOR, _SECTOR)
    if len(record) < _SECTOR or not record.startswith(_MARK):
        return {}
    (at,) = struct.unpack_from("<I", record, _CATALOGUE)
    catalogue = read(at * _SECTOR, _SECTOR)
    platform, found = None, dict[str, int]()
    for start in range(0, len(catalogue) - _ENTRY + 1, _ENTRY):
        kind, number = catalogue[start : start + 2]
        if start == 0 or kind in _SECTIONS:
            platform = _PLATFORMS.get(number)
        elif kind == _BOOTABLE and platform:
            (image,) = struct.unpack_from("<I", catalogue, start + _IMAGE)
            found.setdefault(platform, image * _SECTOR)
    return found


def firmware_of_cd(cd: ChainFile) -> frozenset[str]:
    """``bios`` and ``uefi``, as far as a CD boots by them.

    :raises OSError: it cannot be read.
    """
    return frozenset(boot_images(cd.read))
