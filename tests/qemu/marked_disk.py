"""Owns a disk with marks beyond what its guest reads and writes, by which it is seen what is read of it, and when."""

from pathlib import Path

from pytest_readonly_vm import VirtualMachine
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.image_tools import run
from tests.qemu.waiting import GENEROUS

MIB = 1 << 20


def marked_disk(path: Path) -> Path:
    """The disk of the tiny guest, raw, with eight marks behind it, 4 MiB apart."""
    run("qemu-img", "convert", "-O", "raw", str(tiny_linux().disk), str(path))
    size = path.stat().st_size
    with path.open("ab") as file:
        for number in range(8):
            file.write(f"mark {number}\n".encode().ljust(4 * MIB, b"."))
    assert path.stat().st_size == size + 32 * MIB
    return path


def mark(vm: VirtualMachine, number: int) -> str:
    """What stands in the disk there, read from it and not from the guest's memory."""
    place = f"/dev/vda iflag=direct bs=512 count=1 skip={(64 * MIB + number * 4 * MIB) // 512}"
    return vm.run(f"dd if={place} 2>/dev/null | head -n 1", timeout=GENEROUS).stdout.strip()
