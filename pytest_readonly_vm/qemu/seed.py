"""Owns the seed for cloud-init: a file system with a few small files, in the form that its data source NoCloud wants.

Pure: bytes in, bytes out. The file system is plain ISO 9660 (ECMA-119) with all files in its root directory. Linux
shows ``USER-DATA.;1`` as ``user-data``, so neither Rock Ridge nor Joliet is needed.
https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping

_SECTOR = 2048
_SYSTEM_AREA = 16  # sectors that ECMA-119 leaves alone
_ROOT, _TABLE_L, _TABLE_M, _FIRST_FILE = (_SYSTEM_AREA + number for number in (2, 3, 4, 5))
_DIRECTORY = 2


def seed(user_data: bytes, *, vendor_data: str, salt: str) -> bytes:
    """The image of a volume that cloud-init takes its data from.

    The user's data goes in as it is, whatever its kind; ours is vendor data, beside which it has all its rights.
    Whatever is different, `salt` too, makes a new instance, so that cloud-init does its work in an image in which it
    has already done so for another. The salt may be a path, whatever bytes are in it.
    """
    parts = [user_data, vendor_data.encode(), os.fsencode(salt)]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    files = {
        "meta-data": json.dumps({"instance-id": f"readonly-vm-{digest[:16]}"}).encode(),
        "user-data": user_data,
        "vendor-data": vendor_data.encode(),
    }
    return iso9660(files, label="cidata")


def iso9660(files: Mapping[str, bytes], *, label: str) -> bytes:
    """An image with these files; their names have at most 28 lower-case letters, digits and dashes."""
    records = [_record(b"\0", _ROOT, _SECTOR, _DIRECTORY), _record(b"\1", _ROOT, _SECTOR, _DIRECTORY)]
    contents = b""
    for name, content in sorted(files.items()):
        sector = _FIRST_FILE + len(contents) // _SECTOR
        records.append(_record(f"{name.upper()}.;1".encode(), sector, len(content)))
        contents += _padded(content)
    root = b"".join(records)
    sectors = _FIRST_FILE + len(contents) // _SECTOR
    return b"".join(
        [
            bytes(_SYSTEM_AREA * _SECTOR),
            _padded(_primary_volume_descriptor(label, sectors)),
            _padded(b"\xffCD001\1"),
            _padded(root),
            _padded(struct.pack("<BBIHBx", 1, 0, _ROOT, 1, 0)),
            _padded(struct.pack(">BBIHBx", 1, 0, _ROOT, 1, 0)),
            contents,
        ]
    )


def _primary_volume_descriptor(label: str, sectors: int) -> bytes:
    # The label is in lower case, which the standard does not have and everybody reads.
    return b"".join(
        [
            struct.pack("<B5sBx32s32s8x", 1, b"CD001", 1, b" " * 32, label.encode().ljust(32)),
            _both(sectors),
            bytes(32),
            _both_short(1),  # volumes
            _both_short(1),  # number of this one
            _both_short(_SECTOR),
            _both(10),  # bytes of a path table
            struct.pack("<II", _TABLE_L, 0),
            struct.pack(">II", _TABLE_M, 0),
            _record(b"\0", _ROOT, _SECTOR, _DIRECTORY),
            b" " * (4 * 128 + 3 * 37),  # who made it, with what
            (b"0" * 16 + b"\0") * 4,  # when: not stated
            b"\1",
        ]
    )


def _record(name: bytes, sector: int, size: int, flags: int = 0) -> bytes:
    length = 33 + len(name) + (len(name) + 1) % 2
    head = struct.pack("BB", length, 0) + _both(sector) + _both(size) + bytes(7)
    return (head + struct.pack("BBB", flags, 0, 0) + _both_short(1) + bytes([len(name)]) + name).ljust(length, b"\0")


def _both(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)


def _both_short(number: int) -> bytes:
    return struct.pack("<H", number) + struct.pack(">H", number)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _SECTOR)
