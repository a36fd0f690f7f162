"""Owns the firmware of the guest by which an accelerator is proved: a few instructions through long mode. Pure.

Its source is proof_firmware.x86.s, beside this file in the project's repository and in its source distribution, where
tests/unit/test_machine_code.py assembles it and compares.
"""

PROVED = 85
"""The exit status of a QEMU whose guest got to its end: it writes 0x2a to isa-debug-exit, and 0x2a << 1 | 1 is that."""

_SIZE = 1 << 16
_RESET = 0xFFF0  # where the processor begins

# Real mode, protected mode, long mode, one OUT. Page tables at 0x1000-0x3fff map the first 2 MiB.
_START_CODE = bytes.fromhex(
    "fa"  # cli
    "2e660f01169800"  # lgdt cs:[gdtr]
    "31c0 8ed8 8ec0 fc"  # xor ax,ax; mov ds,ax; mov es,ax; cld
    "bf0010 6631c0 66b9000c0000 66f3ab"  # clear 12 KiB at 0x1000: mov di; xor eax,eax; mov ecx,0xc00; rep stosd
    "66c706001003200000"  # PML4[0] = 0x2003
    "66c706002003300000"  # PDPT[0] = 0x3003
    "66c706003083000000"  # PD[0] = 2 MiB page at 0
    "66b800100000 0f22d8"  # cr3 = 0x1000
    "0f20e0 6683c820 0f22e0"  # cr4 |= PAE
    "66b9800000c0 0f32 660d00010000 0f30"  # EFER |= LME
    "0f20c0 660d01000080 0f22c0"  # cr0 |= PE | PG
    "66ea70000f000800"  # ljmp 8:0xf0070
    "b82a000000 e6f4"  # 64 bit: mov eax,0x2a; out 0xf4,al
    "f4 ebfd"  # hlt; jmp back
    "8db400006690"  # padding
    "0000000000000000 00000000009a2000 0000000000920000"  # GDT: none, 64-bit code, data
    "1700 80000f00"  # its limit and address, 0xf0080
)
_RESET_CODE = bytes.fromhex("ea000000f0")  # ljmp f000:0


def firmware() -> bytes:
    """All of it, to be given to an x86 emulator as ``-bios``."""
    rom = bytearray(_SIZE)
    rom[: len(_START_CODE)] = _START_CODE
    rom[_RESET : _RESET + len(_RESET_CODE)] = _RESET_CODE
    return bytes(rom)
