"""Owns the choice of accelerator, by proof: a device that opens is not an accelerator that runs guests.

Some hosts, often virtual machines themselves, offer a ``/dev/kvm`` that opens and then hangs every guest. So a few
instructions are run under it, through long mode, before it is believed, and the verdict is remembered for as long as
this host stays booted.
"""

import contextlib
import fcntl
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.errors import AcceleratorUnavailable, HostError
from pytest_readonly_vm.host.folders import user_cache
from pytest_readonly_vm.host.process import ending, last_words, run_tool
from pytest_readonly_vm.host.qemu import Qemu, host_arch

_KVM = Path("/dev/kvm")
_PATIENCE = 3.0  # TCG takes 0.03 s for the same guest
_PROVED = 85  # what the x86 guest writes to isa-debug-exit, 0x2a << 1 | 1

# A 64 KiB firmware: real mode, protected mode, long mode, one OUT. Page tables at 0x1000-0x3fff map the first 2 MiB.
_X86_START = bytes.fromhex(
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
_X86_RESET = bytes.fromhex("ea000000f0")  # at the reset vector: ljmp f000:0


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs the guest's instructions, and why it was chosen."""

    name: str
    reason: str

    def describe(self) -> str:
        return f"{self.name} ({self.reason})"


def choose(wanted: str, qemu: Qemu, *, origin: str) -> Accelerator:
    """The accelerator for `wanted`: ``auto``, ``kvm`` or ``tcg``.

    :raises AcceleratorUnavailable: ``kvm`` was asked for and does not run guests here; the message says why.
    """
    if wanted == "tcg":
        return Accelerator("tcg", f"asked for by {origin}")
    obstacle = _obstacle_to_kvm(qemu)
    if obstacle is None:
        return Accelerator("kvm", "proved by running a guest")
    if wanted == "kvm":
        raise AcceleratorUnavailable(f"accel=kvm (from {origin}) cannot be had: {obstacle}")
    return Accelerator("tcg", f"no KVM: {obstacle}")


def _obstacle_to_kvm(qemu: Qemu) -> str | None:
    """Why KVM cannot run this emulator's guests, or None when it was proved that it can."""
    family = {"i386": "x86_64"}.get(qemu.arch, qemu.arch)
    if family != host_arch():
        return f"a {qemu.arch} guest on a {host_arch()} computer"
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{_KVM} does not exist (virtualisation is off in the firmware, or this is a guest without nesting)"
    except PermissionError:
        return (
            f"{_KVM} may not be opened by this user; join the group kvm: sudo usermod -aG kvm $USER, then log in anew"
        )
    except OSError as error:
        return f"{_KVM} cannot be opened: {error.strerror}"
    if family != "x86_64":
        return None  # no proof is known for this architecture; QEMU's own check at the start has to do
    return _remembered_proof(qemu)


def _remembered_proof(qemu: Qemu) -> str | None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = f"{boot} {platform.release()} {qemu.identity()}"
    with _verdicts(boot) as verdicts:
        if key not in verdicts:
            verdicts[key] = prove("kvm", qemu) or ""
        return verdicts[key] or None


@contextlib.contextmanager
def _verdicts(boot: str) -> Iterator[dict[str, str]]:
    """The verdicts found since this host booted, locked against other runs and written back; forgotten without a home.

    The lock makes the workers of a parallel run wait for one proof instead of each making its own.
    """
    try:
        folder = user_cache()
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "accelerators.json").open("a+", encoding="utf-8")
    except (OSError, HostError):
        yield {}
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        try:
            known = {key: str(value) for key, value in json.load(file).items() if key.startswith(boot)}
        except (ValueError, AttributeError):
            known = {}
        before = dict(known)
        yield known
        if known != before:
            file.truncate(0)
            json.dump(known, file)


def prove(accelerator: str, qemu: Qemu) -> str | None:
    """Run a few instructions through long mode under an accelerator of an x86 emulator, for at most 3 s.

    Returns what went wrong, or None when the guest got to its end.
    """
    rom = bytearray(1 << 16)
    rom[: len(_X86_START)] = _X86_START
    rom[0xFFF0 : 0xFFF0 + len(_X86_RESET)] = _X86_RESET
    with tempfile.NamedTemporaryFile(suffix=".rom") as file:
        file.write(rom)
        file.flush()
        argv = [
            str(qemu.path),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display", "none",
            "-M", "pc",
            "-m", "2",
            "-accel", accelerator,
            "-bios", file.name,
            "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
        ]  # fmt: skip
        done = run_tool(argv, timeout=_PATIENCE)
    if done.returncode == _PROVED:
        return None
    if done.returncode is None:
        return f"/dev/{accelerator} opens, but a guest of a few instructions hangs under it"
    words = last_words(done.stderr)
    return ": ".join([f"a guest of a few instructions did not run under it: QEMU {ending(done.returncode)}", *words])
