"""What a disk's tables tell of how it boots, over real tables and file systems in each format."""

import shutil
import struct
from pathlib import Path
from uuid import UUID

import pytest

from pytest_readonly_vm.image.base import open_base
from pytest_readonly_vm.image.layout import DiskLayout, read_layout
from tests.qemu.image_tools import run

_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_ROOT_ARM64 = "b921b045-1df0-41c3-af44-4c6f280d3fae"
_MIB = 1 << 20
QEMU_IMG = Path(shutil.which("qemu-img") or "qemu-img")


def with_esp(folder: Path, *, bits: int, size: int, loaders: tuple[str, ...]) -> Path:
    """A raw disk with a GPT, an EFI system partition of `size` MiB and a root partition."""
    esp, disk, content = folder / "esp", folder / "disk.raw", folder / "content"
    content.mkdir()
    # A folder of several clusters, with long names before the loaders.
    names = [*(f"a file with a long name {number}.cfg" for number in range(80)), *loaders]
    for name in names:
        (content / name).write_text("MZ")
    with esp.open("wb") as file:
        file.truncate(size * _MIB)
    run("mkfs.vfat", "-F", str(bits), esp)
    run("mmd", "-i", esp, "::/EFI", "::/EFI/debian", "::/EFI/BOOT")
    run("mcopy", "-i", esp, *(content / name for name in names), "::/EFI/BOOT")
    with disk.open("wb") as file:
        file.truncate((size + 4) * _MIB)
    run("sgdisk", f"-n1:2048:+{size}M", f"-t1:{_ESP}", "-n2:0:0", f"-t2:{_ROOT_ARM64}", disk)
    with disk.open("r+b") as file:
        file.seek(_MIB)
        file.write(esp.read_bytes())
    return disk


def layout(path: Path) -> DiskLayout:
    return read_layout(open_base(path, format=None, origin="the test", qemu_img=QEMU_IMG), qemu_img=QEMU_IMG)


@pytest.mark.parametrize(("bits", "size"), [(12, 4), (16, 40), (32, 64)])
def test_loaders_are_found_in_each_kind_of_fat_and_each_format(tmp_path: Path, bits: int, size: int) -> None:
    loaders = ("BOOTX64.EFI", "bootriscv64.efi", "grubx64.efi")
    disk = with_esp(tmp_path, bits=bits, size=size, loaders=loaders)
    packed = tmp_path / "disk.qcow2"
    run(QEMU_IMG, "convert", "-c", "-f", "raw", "-O", "qcow2", disk, packed)
    for path in (disk, packed):
        found = layout(path)
        assert (found.scheme, found.has_boot_code) == ("gpt", False)
        assert [str(one.type) for one in found.partitions] == [_ESP, _ROOT_ARM64]
        assert found.loaders == ("BOOTX64.EFI", "BOOTRISCV64.EFI")


def test_a_disk_without_tables_has_neither(tmp_path: Path) -> None:
    path = tmp_path / "blank.raw"
    path.write_bytes(bytes(_MIB))
    found = layout(path)
    assert (found.scheme, found.has_boot_code, found.partitions, found.loaders) == ("none", False, (), ())


def test_boot_code_is_seen_with_and_without_a_table(tmp_path: Path) -> None:
    path = tmp_path / "boot.raw"
    code = b"\xfa\xf4".ljust(446, b"\x90")
    path.write_bytes(code + bytes(64) + b"\x55\xaa" + bytes(512))
    assert (layout(path).scheme, layout(path).has_boot_code) == ("none", True)
    linux = b"\x80" + bytes(3) + b"\x83" + bytes(3) + (8).to_bytes(4, "little") + (8).to_bytes(4, "little")
    path.write_bytes(code + linux.ljust(64, b"\0") + b"\x55\xaa" + bytes(16 * 512))
    assert (layout(path).scheme, layout(path).has_boot_code) == ("mbr", True)
    assert [(one.type, one.offset) for one in layout(path).partitions] == [(0x83, 4096)]


PARTED = bytes.fromhex("fab800108ed0bc00b0b800008ed88ec0")
GRUB = bytes.fromhex("eb6390")
BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")


def table(code: bytes, *, status: int = 0, kind: int = 0x83) -> bytes:
    """A first sector with one partition."""
    entry = bytes([status, 0, 0, 0, kind, 0, 0, 0]) + struct.pack("<II", 2048, 2048)
    return code.ljust(446, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa"


def gpt(kind: UUID, *, attributes: int = 0, start: int = 2048) -> bytes:
    """A header and one entry."""
    header = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 128, 128)
    return header.ljust(512, b"\0") + kind.bytes_le + bytes(16) + struct.pack("<QQQ", start, start, attributes)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (table(GRUB), True),
        (table(PARTED), False),
        (table(PARTED, status=0x80), True),
        (table(b""), False),
        (table(GRUB, kind=0xEE) + gpt(UUID(_ROOT_ARM64)), False),
        (table(GRUB, kind=0xEE) + gpt(BIOS_BOOT), True),
        (table(GRUB, kind=0xEE) + gpt(UUID(_ROOT_ARM64), attributes=4), True),
        (table(GRUB, kind=0x83) + gpt(UUID(_ROOT_ARM64)), True),
    ],
)
def test_boot_code_counts_where_it_leads_to_a_system(tmp_path: Path, first: bytes, expected: bool) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(first.ljust(4 * _MIB, b"\0"))
    assert layout(path).has_boot_code is expected


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_tables_that_lead_beyond_any_disk_are_taken_for_empty(tmp_path: Path, format: str) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes((table(b"", kind=0xEE) + gpt(UUID(_ESP), start=(1 << 64) - 1)).ljust(_MIB, b"\0"))
    if format != "raw":
        run(QEMU_IMG, "convert", "-f", "raw", "-O", format, path, tmp_path / "disk")
        path = tmp_path / "disk"
    assert layout(path).loaders == ()


def test_a_disk_that_ends_within_its_table_is_taken_for_empty(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes((table(b"", kind=0xEE) + gpt(UUID(_ESP)))[:1024])
    with path.open("r+b") as file:
        file.truncate(560)
    assert layout(path).partitions == ()


@pytest.mark.parametrize("damage", [(_MIB, b"\0" * 512), (_MIB + 11, b"\xff" * 40), (512 + 72, b"\xff" * 16)])
def test_a_damaged_table_or_file_system_is_taken_for_empty(tmp_path: Path, damage: tuple[int, bytes]) -> None:
    disk = with_esp(tmp_path, bits=16, size=40, loaders=("BOOTX64.EFI",))
    with disk.open("r+b") as file:
        file.seek(damage[0])
        file.write(damage[1])
    assert layout(disk).loaders == ()
