"""Owns getting the ELF kernel out of a bzImage, so that no emulated processor has to unpack it at each boot.

QEMU boots it with the same ``-kernel``, by the note that it has for Xen's PVH. The kernels of other architectures are
not packed, or in such a way that what is packed cannot be booted alone.
"""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

from tests.guests import tools
from tests.guests.tools import BuildError

# Of the header in "The Linux/x86 Boot Protocol".
_SETUP_SECTORS = 0x1F1
_MAGIC = 0x202
_PAYLOAD = 0x248
_SECTOR = 512

_SIZE_LENGTH = 4
"""Bytes: the build of the kernel appends the unpacked size where the format does not end with it, as gzip's does."""
_UNPACK = {b"\x02\x21\x4c\x18": (".lz4", "lz4 -m"), b"\x28\xb5\x2f\xfd": (".zst", "zstd")}
"""By how the payload begins: the ending that the program takes off the file's name, and the program."""


def unpack(image: Path, kernel: Path) -> None:
    """Write what is packed in `image` to `kernel`, or all of what is no bzImage.

    :raises BuildError: it is packed in a way not known.
    """
    content = image.read_bytes()
    if content[_MAGIC : _MAGIC + 4] != b"HdrS":
        kernel.write_bytes(content)
        return
    start, length = struct.unpack_from("<II", content, _PAYLOAD)
    start += (content[_SETUP_SECTORS] + 1) * _SECTOR
    payload = content[start : start + length]
    if payload.startswith(b"\x1f\x8b"):
        kernel.write_bytes(gzip.decompress(payload))
    elif payload.startswith(b"\xfd7zXZ\0"):
        kernel.write_bytes(lzma.decompress(payload[:-_SIZE_LENGTH]))
    elif payload[:4] in _UNPACK:
        ending, program = _UNPACK[payload[:4]]
        packed = kernel.with_name(kernel.name + ending)
        packed.write_bytes(payload[:-_SIZE_LENGTH])
        tools.run([*program.split(), "-d", "-q", "--rm", packed])
    else:
        raise BuildError(f"{image.name} is packed in a way not known here; it begins with {payload[:6].hex(' ')}")
    with kernel.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            raise BuildError(f"what is packed in {image.name} is no ELF file")
