"""Owns the repair program: 300 bytes that set a Linux guest's clock and reseed its random numbers. Pure.

A program of our own, because a guest need not have one that can do the second, and because none starts as fast under
emulation: there is nothing to link or to load, and the file removes itself.

Its sources are repair_program.*.s, one for each processor, beside this file in the project's repository and in its
source distribution, where tests/unit/test_machine_code.py assembles them and compares.
"""

import struct
from dataclasses import dataclass

ENTROPY = 64
"""Bytes of randomness in a program."""
CREDITED = 256
"""Bits of entropy that they are said to hold: with as many, the kernel's generator counts as seeded."""

_BASE = 0x400000
_DATA = 0x78  # in the file, and above _BASE in memory: a struct timespec, a struct rand_pool_info, and then the code
_TIME, _POOL = struct.Struct("<qq"), struct.Struct(f"<ii{ENTROPY}s")
_CODE = _DATA + _TIME.size + _POOL.size
# Linux does not mind the last seven bytes. A kernel for another processor refuses the program, and then shells take it
# for a script: the name of no command, and an exit before the random bytes.
_IDENT = b"\x7fELF%c\x01\x01\0\0\nexit\n\0"

# The lines: ioctl(0, RNDADDENTROPY, pool); ioctl(0, RNDRESEEDCRNG), there since Linux 4.17; clock_settime(0, time), not
# earlier because it wakes up whoever waits for such a change; unlink(argv[0]); exit(first | second | third).
_X86_64 = bytes.fromhex(
    "b810000000 31ff be03520840 ba88004000 0f05"  # mov eax, 16; xor edi, edi; mov esi, 0x40085203; mov edx, pool; …
    "89c3 b810000000 be07520000 0f05"  # mov ebx, eax; mov eax, 16; mov esi, 0x5207; syscall
    "09c3 b8e3000000 be78004000 0f05"  # or ebx, eax; mov eax, 227; mov esi, time; syscall
    "09c3 b857000000 488b7c2408 0f05"  # or ebx, eax; mov eax, 87; mov rdi, [rsp + 8]; syscall
    "b83c000000 89df 0f05"  # mov eax, 60; mov edi, ebx; syscall
)
_I386 = bytes.fromhex(
    "b836000000 31db b903520840 ba88004000 cd80"  # mov eax, 54; xor ebx, ebx; mov ecx, 0x40085203; mov edx, pool; …
    "89c6 b836000000 b907520000 cd80"  # mov esi, eax; mov eax, 54; mov ecx, 0x5207; int 0x80
    "09c6 b894010000 b978004000 cd80"  # or esi, eax; mov eax, 404 (clock_settime64); mov ecx, time; int 0x80
    "09c6 b80a000000 8b5c2404 cd80"  # or esi, eax; mov eax, 10; mov ebx, [esp + 4]; int 0x80
    "b801000000 89f3 cd80"  # mov eax, 1; mov ebx, esi; int 0x80
)
_AARCH64 = bytes.fromhex(
    "a80380d2 000080d2 a1020018 62fdff10 010000d4"  # mov x8, 29; mov x0, 0; ldr w1, last; adr x2, pool; svc 0
    "f30300aa 000080d2 e1408ad2 010000d4"  # mov x19, x0; mov x0, 0; mov x1, 0x5207; svc 0
    "730200aa 080e80d2 000080d2 c1fbff10 010000d4"  # orr x19, x19, x0; mov x8, 112; mov x0, 0; adr x1, time; svc 0
    "730200aa 680480d2 600c8092 e10740f9 020080d2 010000d4"  # orr …; mov x8, 35; mov x0, -100; ldr x1, [sp, 8]; …
    "a80b80d2 e00313aa 010000d4 03520840"  # mov x8, 93; mov x0, x19; svc 0; last: .word 0x40085203
)
_RISCV64 = bytes.fromhex(
    "9308d001 13050000 b7550840 9b853520 37064000 13068608 73000000"  # li a7, 29; li a0, 0; li a1, 0x40085203; …
    "93040500 13050000 b7550000 9b857520 73000000"  # mv s1, a0; li a0, 0; li a1, 0x5207; ecall
    "b3e4a400 93080007 13050000 b7054000 93858507 73000000"  # or s1, s1, a0; li a7, 112; li a0, 0; li a1, time; ecall
    "b3e4a400 93083002 1305c0f9 83358100 13060000 73000000"  # or …; li a7, 35; li a0, -100; ld a1, 8(sp); …
    "9308d005 13850400 73000000"  # li a7, 93; mv a0, s1; ecall
)


@dataclass(frozen=True, slots=True)
class _Processor:
    """`machine` as ELF numbers it, and the code."""

    bits: int
    machine: int
    code: bytes


_PROCESSORS = {
    "x86_64": _Processor(64, 62, _X86_64),
    "i386": _Processor(32, 3, _I386),
    "aarch64": _Processor(64, 183, _AARCH64),
    "riscv64": _Processor(64, 243, _RISCV64),
}


def repair_program(arch: str, now: float, entropy: bytes) -> bytes | None:
    """The program's file for a processor in QEMU's words, or None if there is none for it.

    To be run by root, by its path, with /dev/urandom as its input. It exits with 0 if all of it worked.

    :param now: the time to be set, in seconds of the Unix epoch.
    :param entropy: `ENTROPY` random bytes.
    """
    if (processor := _PROCESSORS.get(arch)) is None:
        return None
    data = _TIME.pack(int(now), int(now % 1 * 1e9)) + _POOL.pack(CREDITED, len(entropy), entropy)
    size = _CODE + len(processor.code)
    return _headers(processor, size).ljust(_DATA, b"\0") + data + processor.code


def _headers(processor: _Processor, size: int) -> bytes:
    """The ELF header and one program header: all of the file, to be read and executed, from _BASE on."""
    executable, version, load, readable, align = 2, 1, 1, 5, 0x10000
    entry, extent = _BASE + _CODE, (0, _BASE, _BASE, size, size)
    if processor.bits == 32:
        ident, sizes = _IDENT % 1, (52, 32, 1, 0, 0, 0)
        header = struct.pack(
            "<16sHHIIIIIHHHHHH", ident, executable, processor.machine, version, entry, 52, 0, 0, *sizes
        )
        return header + struct.pack("<IIIIIIII", load, *extent, readable, align)
    ident, sizes = _IDENT % 2, (64, 56, 1, 0, 0, 0)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, executable, processor.machine, version, entry, 64, 0, 0, *sizes)
    return header + struct.pack("<IIQQQQQQ", load, readable, *extent, align)
