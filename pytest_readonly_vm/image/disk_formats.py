"""Owns what the first and last bytes of a disk say of it: whether it is certainly one, how large it is. Pure.

The places are those of the formats' own descriptions: docs/interop/qcow2.txt and qed_spec.txt of QEMU, VMware's
"Virtual Disk Format 5.0", Microsoft's "Virtual Hard Disk Image Format Specification", block/vdi.c of QEMU; ECMA-119.
"""

import re
import struct

from pytest_readonly_vm.image.signatures import is_cd

FOOTER = 512
"""Bytes at the end of a VHD."""

FIXED, DIFFERENCING = 2, 4
"""Types of VHDs."""

UNFREEZABLE = ("vmdk", "vdi", "vhdx", "vpc")
"""Formats, by QEMU's names, that no snapshot of a machine can be in."""

_SECTOR = 512
_CD_SECTOR = 2048
_CD_PADDING = 150
_FORMATS = rb"QFI\xfb|QED\0|KDMV|COWD|vhdxfile|conectix|.{64}\x7f\x10\xda\xbe"
_FILE_SYSTEMS = rb"XFSB|hsqs|.{1080}\x53\xef|LUKS\xba\xbe|.{512}LABELONE"
_BOOTS = rb".{510}\x55\xaa|.{512}EFI PART|.{4096}EFI PART"


def is_disk(head: bytes) -> bool:
    """Whether what begins so is certainly a disk: in a format, bootable, with partitions or a file system, or a CD."""
    return is_cd(head) or bool(re.match(b"|".join((_FORMATS, _FILE_SYSTEMS, _BOOTS)), head, re.DOTALL))


def is_description_of_vmdk(head: bytes) -> bool:
    """Whether it is the text that says which files a VMDK consists of, as QEMU finds it."""
    return bool(re.match(rb"(?:[ \r]*(?:#[^\n]*)?\n)*version=", head))


def virtual_size(head: bytes) -> int | None:
    """How large a disk is, in bytes, where its format says so at the beginning: 33 KiB of it are enough."""
    if len(head) < _SECTOR:
        return None
    if head.startswith(b"QFI\xfb"):
        return _number(">Q", head, 24)
    if head.startswith(b"QED\0"):
        return _number("<Q", head, 48)
    if head.startswith(b"KDMV"):
        return _number("<Q", head, 12) * _SECTOR
    if head.startswith(b"conectix"):
        return _number(">Q", head, 48)
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return _number("<Q", head, 368)
    return None


def end_of_cd(head: bytes) -> int:
    """Where the contents of a CD end at least, in bytes; 0 where that is not said.

    Some programs count the empty sectors behind the end, and others cut these off again.
    """
    if head[32768:32774] != b"\1CD001":
        return 0
    return max(_number("<I", head, 32848) - _CD_PADDING, 0) * _CD_SECTOR


def end_of_partitions(head: bytes) -> int:
    """Where the last partition of an MBR table ends, in bytes; 0 when there is no such table."""
    table = head[446:512]
    if len(table) < 66 or table[64:] != b"\x55\xaa":
        return 0
    end = 0
    for start in range(0, 64, 16):
        status, kind, first, count = struct.unpack_from("<B3xB3xII", table, start)
        if status not in (0, 0x80):
            return 0  # boot code up to the signature, no table
        if kind not in (0, 0xEE):  # 0xEE protects a GPT; its size is often a constant
            end = max(end, first + count)
    return end * _SECTOR


def vhd_type(footer: bytes, size: int) -> int | None:
    """Of which type a VHD is, by the last bytes of a file of this size; None if it is none.

    A fixed one is a raw disk with a sector behind it that says so, and a raw disk to QEMU.
    """
    if len(footer) != FOOTER or not footer.startswith(b"conectix"):
        return None
    checksum = ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF
    kind = _number(">I", footer, 60)
    is_whole = kind != FIXED or _number(">Q", footer, 48) <= size - FOOTER
    return kind if is_whole and checksum == _number(">I", footer, 64) else None


def _number(kind: str, data: bytes, offset: int) -> int:
    (number,) = struct.unpack_from(kind, data, offset)
    return int(number)
