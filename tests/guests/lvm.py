"""Owns the beginning of a physical volume of LVM with one linear logical volume, as bytes.

The format: lib/format_text/layout.h and lib/label/label.h in LVM's sources. Everything that tools would choose by
chance is fixed.
"""

from __future__ import annotations

import struct
import zlib

LABEL_AT = 40 << 9
"""Where a partition for it may begin, in bytes: behind a GPT."""

_SECTOR = 512
_LABEL_SECTOR = 1
_AREA_AT = 4096  # of the metadata, from the beginning of the volume
_EXTENT = 1 << 20
_SEED = 0xF597A6CF
_MAGIC = b" LVM2 x[5A%r0N*>"

_VOLUME_ID = "readon-lyvm-0000-0000-0000-0000-phys00"
_GROUP_ID = "readon-lyvm-0000-0000-0000-0000-group0"
_LOGICAL_ID = "readon-lyvm-0000-0000-0000-0000-logic0"

_TEXT = """\
{group} {{
id = "{group_id}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {extent}
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {{
pv0 {{
id = "{volume_id}"
device = "/dev/vda1"
status = ["ALLOCATABLE"]
flags = []
dev_size = {sectors}
pe_start = {first}
pe_count = {count}
}}
}}
logical_volumes {{
{volume} {{
id = "{logical_id}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {count}
type = "striped"
stripe_count = 1
stripes = [
"pv0", 0
]
}}
}}
}}
}}
contents = "Text Format Volume Group"
version = 1
description = ""
creation_host = "debian"
creation_time = 1700000000
"""


def label(*, data: int, size: int, partition: int, group: str, volume: str) -> bytes:
    """The first `data` bytes of a partition whose logical volume begins there and has `size` bytes, of `partition`."""
    if size % _EXTENT or data % _SECTOR:
        raise ValueError(f"{size} bytes are no whole extents of {_EXTENT}, or {data} no sectors")
    text = (
        _TEXT.format(
            group=group,
            volume=volume,
            group_id=_GROUP_ID,
            volume_id=_VOLUME_ID,
            logical_id=_LOGICAL_ID,
            extent=_EXTENT // _SECTOR,
            sectors=partition // _SECTOR,
            first=data // _SECTOR,
            count=size // _EXTENT,
        ).encode()
        + b"\0"
    )
    area = data - _AREA_AT
    result = bytearray(data)
    result[_LABEL_SECTOR * _SECTOR : (_LABEL_SECTOR + 1) * _SECTOR] = _label_sector(data, area, partition)
    result[_AREA_AT : _AREA_AT + _SECTOR] = _area_header(area, text)
    result[_AREA_AT + _SECTOR : _AREA_AT + _SECTOR + len(text)] = text
    return bytes(result)


def _label_sector(data: int, area: int, partition: int) -> bytes:
    identity = _VOLUME_ID.replace("-", "").encode()
    # The physical volume, its data areas up to an empty one, its metadata areas likewise, then extensions: version 2,
    # in use.
    areas = struct.pack("<QQQQ", data, 0, 0, 0) + struct.pack("<QQQQ", _AREA_AT, area, 0, 0)
    header = struct.pack("<32sQ", identity, partition) + areas + struct.pack("<IIQQ", 2, 1, 0, 0)
    rest = struct.pack("<I8s", 32, b"LVM2 001") + header
    rest = rest.ljust(_SECTOR - 20, b"\0")
    return struct.pack("<8sQI", b"LABELONE", _LABEL_SECTOR, _checksum(rest)) + rest


def _area_header(area: int, text: bytes) -> bytes:
    location = struct.pack("<QQII", _SECTOR, len(text), _checksum(text), 0) + bytes(24)
    rest = struct.pack("<16sIQQ", _MAGIC, 1, _AREA_AT, area) + location
    rest = rest.ljust(_SECTOR - 4, b"\0")
    return struct.pack("<I", _checksum(rest)) + rest


def _checksum(data: bytes) -> int:
    """LVM's: that of zlib with another beginning, and without its last step."""
    return zlib.crc32(data, _SEED ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
