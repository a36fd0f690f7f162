"""Owns what a CD's boot catalogue says of the firmware that boots it.

By the "El Torito" Bootable CD-ROM Format Specification 1.0, and UEFI 2.10, 13.3.2.1, for the platform of UEFI.
"""

import os
import struct

from pytest_readonly_vm.image.image_file import ImageFile

_SECTOR = 2048
_BOOT_RECORD = 17  # the second volume descriptor
_MARK = b"\0CD001\1EL TORITO SPECIFICATION"
_CATALOGUE = 0x47
_ENTRY = 32
_BOOTABLE = 0x88
_SECTIONS = (0x90, 0x91)
_PLATFORMS = {0: "bios", 0xEF: "uefi"}


def firmware_of_cd(cd: ImageFile) -> frozenset[str]:
    """``bios`` and ``uefi``, as far as a CD boots by them.

    :raises OSError: it cannot be read.
    """
    record = os.pread(cd.descriptor, _SECTOR, _BOOT_RECORD * _SECTOR)
    if not record.startswith(_MARK):
        return frozenset()
    (at,) = struct.unpack_from("<I", record, _CATALOGUE)
    catalogue = os.pread(cd.descriptor, _SECTOR, at * _SECTOR)
    entries = [catalogue[start : start + _ENTRY] for start in range(0, len(catalogue) - _ENTRY + 1, _ENTRY)]
    platform, found = None, set()
    for number, entry in enumerate(entries):
        if number == 0 or entry[0] in _SECTIONS:
            platform = _PLATFORMS.get(entry[1])
        elif entry[0] == _BOOTABLE and platform:
            found.add(platform)
    return frozenset(found)
