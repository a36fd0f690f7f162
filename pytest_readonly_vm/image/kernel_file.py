"""Owns what a kernel's file tells of the processor that it is for.

Sources: Linux's boot protocols (https://docs.kernel.org/arch/x86/boot.html, …/arch/arm64/booting.html,
…/arch/riscv/boot-image-header.html, …/arch/arm/booting.html), ELF's and PE's numbers of machines, ``zboot-header.S``
for kernels that unpack themselves under UEFI, and QEMU's ``hw/s390x/ipl.c`` for those of s390x.
"""

import os
import struct
import zlib
from pathlib import Path

_FIRST = 0x10010  # bytes in which each of them says what it is

_ELF_MACHINES = {
    3: "i386",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
_PE_MACHINES = {
    0x14C: "i386",
    0x1C2: "arm",
    0x5064: "riscv64",
    0x6264: "loongarch64",
    0x8664: "x86_64",
    0xAA64: "aarch64",
}
_AT_56 = {b"ARM\x64": "aarch64", b"RSC\x05": "riscv64"}
_ARM_ZIMAGE = struct.pack("<I", 0x016F2818)
_WITH_FLAGS, _IS_64_BIT = 0x20C, 1  # of the boot protocol for x86
_S390_AT, _S390 = 0x10008, b"S390EP"


def kernel_arch(path: Path) -> str | None:
    """The architecture of a kernel in QEMU's words, None for what is no kernel that is known here.

    :raises OSError: it cannot be read.
    """
    with path.open("rb") as file:
        first = os.read(file.fileno(), _FIRST)
    return _arch_of(first) or _arch_of(_unpacked(first))


def _arch_of(first: bytes) -> str | None:
    if first.startswith(b"\x7fELF") and len(first) > 20:
        (machine,) = struct.unpack_from("<H" if first[5] == 1 else ">H", first, 18)
        return _ELF_MACHINES.get(machine)
    if first[0x202:0x206] == b"HdrS" and len(first) > 0x236:
        version, flags = struct.unpack_from("<H", first, 0x206)[0], first[0x236]
        return "x86_64" if version >= _WITH_FLAGS and flags & _IS_64_BIT else "i386"
    if found := _AT_56.get(first[56:60]):
        return found
    if first[0x24:0x28] in (_ARM_ZIMAGE, _ARM_ZIMAGE[::-1]):
        return "arm"
    if first.startswith(_S390, _S390_AT):
        return "s390x"
    if first.startswith(b"MZ") and len(first) > 0x40:
        (place,) = struct.unpack_from("<I", first, 0x3C)
        if first[place : place + 4] == b"PE\0\0" and len(first) >= place + 6:
            return _PE_MACHINES.get(struct.unpack_from("<H", first, place + 4)[0])
    return None


def _unpacked(first: bytes) -> bytes:
    """The beginning of what is packed by gzip, as kernels for Arm are that boot loaders unpack."""
    if not first.startswith(b"\x1f\x8b"):
        return b""
    try:
        return zlib.decompressobj(wbits=31).decompress(first, _FIRST)
    except zlib.error:
        return b""
