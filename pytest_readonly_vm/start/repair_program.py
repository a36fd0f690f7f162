"""Owns the repair program: 300 bytes that set a Linux guest's clock and reseed its random numbers, when told. Pure.

A program of our own, because a guest need not have one that can do the second, and because it can wait in the guest for
a message: to go on from there costs an emulated guest less than to start any program.

Its sources are repair_program.*.s, one for each processor, beside this file in the project's repository and in its
source distribution, where tests/unit/test_machine_code.py assembles them and compares.
"""

import struct
from dataclasses import dataclass

ENTROPY = 64
"""Bytes of randomness in a message."""
IDLE = 3
"""The exit status of a program that has had no message."""
CREDITED = 256
"""Bits of entropy that they are said to hold: with as many, the kernel's generator counts as seeded."""

_BASE = 0x400000
_CODE = 0x78  # in the file, and above _BASE in memory
_TIME, _POOL = struct.Struct("<qq"), struct.Struct(f"<ii{ENTROPY}s")  # struct timespec, struct rand_pool_info
# Linux does not mind the last seven bytes. A kernel for another processor refuses the program, and then shells take it
# for a script: the name of no command, and an exit before the code.
_IDENT = b"\x7fELF%c\x01\x01\0\0\nexit\n\0"

# The lines: read(0, …) until there is a message, or exit(…) at the end of the input; ioctl(3, RNDADDENTROPY, pool);
# ioctl(3, RNDRESEEDCRNG), there since Linux 4.17; clock_settime(0, time), not earlier because it wakes up whoever waits
# for such a change; write(1, text, 110), of the first text or the second; write(4, its last byte, 1); exit(status).
_X86_64 = bytes.fromhex(
    "4881ec00020000 bb03000000 4531e4 31c0 31ff 4a8d3424 ba34010000 4429e2 0f05"
    "85c0 7e76 4101c4 4181fc34010000 72de b810000000 bf03000000 be03520840 488d542410 0f05"
    "89c3 b810000000 be07520000 0f05"
    "09c3 b8e3000000 31ff 4889e6 0f05"
    "488d742458 09c3 7404 4883c66e b801000000 bf01000000 ba6e000000 0f05"
    "488d766d b801000000 bf04000000 ba01000000 0f05"
    "e971ffffff b83c000000 89df 0f05"
)
_I386 = bytes.fromhex(
    "81ec00020000 be03000000 31ff b803000000 31db 8d0c3c ba34010000 29fa cd80"
    "85c0 7e6f 01c7 81ff34010000 72df b836000000 bb03000000 b903520840 8d542410 cd80"
    "89c6 b836000000 b907520000 cd80"
    "09c6 b894010000 31db 89e1 cd80"
    "8d4c2458 09c6 7403 83c16e b804000000 bb01000000 ba6e000000 cd80"
    "8d496d b804000000 bb04000000 ba01000000 cd80"
    "e978ffffff b801000000 89f3 cd80"
)
_AARCH64 = bytes.fromhex(
    "ff0308d1 730080d2 140080d2 e80780d2 000080d2 e1030091 2100148b 822680d2 420014cb 010000d4"
    "1f0000f1 ed030054 9402008b 9fd204f1 a3feff54 a80380d2 600080d2 81030018 e2430091 010000d4"
    "f30300aa 600080d2 e1408ad2 010000d4"
    "730200aa 080e80d2 000080d2 e1030091 010000d4"
    "e1630191 730200aa 530000b4 21b80191 080880d2 200080d2 c20d80d2 010000d4"
    "21b40191 800080d2 220080d2 010000d4"
    "d9ffff17 a80b80d2 e00313aa 010000d4"
    "03520840"
)
_RISCV64 = bytes.fromhex(
    "130101e0 93043000 13094013 93090100 9308f003 13050000 93850900 13060900 73000000"
    "6352a008 b389a900 3309a940 e34020ff 9308d001 13053000 b7550840 9b853520 13060101 73000000"
    "93040500 13053000 b7550000 9b857520 73000000"
    "b3e4a400 93080007 13050000 93050100 73000000"
    "93058105 b3e4a400 63840400 9385e506 93080004 13051000 1306e006 73000000"
    "9385d506 13054000 13061000 73000000"
    "6ff05ff6 9308d005 13850400 73000000"
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


def repair_program(arch: str) -> bytes | None:
    """The program's file for a processor in QEMU's words, or None if there is none for it.

    To be run by root, with /dev/urandom as its descriptor 3, and as 4 what is to have a byte after each text. It makes
    a `helper`: a message is `repair_message` and two texts, of which it prints the first if all of it worked, else the
    second. At the end of its input it exits with 0 if all of the last message worked, and with `IDLE` if there was
    none.
    """
    if (processor := _PROCESSORS.get(arch)) is None:
        return None
    return _headers(processor, _CODE + len(processor.code)).ljust(_CODE, b"\0") + processor.code


def repair_message(now: float, entropy: bytes) -> bytes:
    """What the program is to be told, texts apart.

    :param now: the time to be set, in seconds of the Unix epoch.
    :param entropy: `ENTROPY` random bytes.
    """
    return _TIME.pack(int(now), int(now % 1 * 1e9)) + _POOL.pack(CREDITED, len(entropy), entropy)


VAIN_MESSAGE = _TIME.pack(0, -1) + _POOL.pack(-1, ENTROPY, bytes(ENTROPY))
"""One of which the kernel refuses the time and the bytes: it shows that the program is there, and does no harm."""


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
