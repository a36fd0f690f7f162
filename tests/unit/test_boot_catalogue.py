"""A CD says by what firmware it boots."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.image.base import open_base
from pytest_readonly_vm.image.boot_catalogue import boot_images, firmware_of_cd
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.layout import read_layout
from pytest_readonly_vm.qemu.architecture import choose_arch
from tests.guests.cd import write_cd

QEMU_IMG = Path("/usr/bin/qemu-img")
CATALOGUE = 19 * 2048
SECTION = struct.pack("<BBH28x", 0x91, 0xEF, 1) + bytes([0x88]) + bytes(31)


def found(path: Path) -> set[str]:
    with path.open("rb") as file:
        of = Fingerprint.of(os.fstat(file.fileno()))
        return set(firmware_of_cd(ImageFile(path, "raw", file.fileno(), of)))


@pytest.mark.parametrize(("platform", "kinds"), [(0, {"bios"}), (0xEF, {"uefi"}), (1, set())])
def test_the_first_entry_says_it(tmp_path: Path, platform: int, kinds: set[str]) -> None:
    assert found(write_cd(tmp_path / "x.iso", b"", platform=platform)) == kinds


def test_others_are_in_sections(tmp_path: Path) -> None:
    content = bytearray(write_cd(tmp_path / "x.iso", b"").read_bytes())
    content[CATALOGUE + 64 : CATALOGUE + 64 + len(SECTION)] = SECTION
    (tmp_path / "x.iso").write_bytes(content)
    assert found(tmp_path / "x.iso") == {"bios", "uefi"}
    content[CATALOGUE + 96] = 0  # not bootable
    (tmp_path / "x.iso").write_bytes(content)
    assert found(tmp_path / "x.iso") == {"bios"}


def test_one_that_does_not_boot_has_none(tmp_path: Path) -> None:
    path = write_cd(tmp_path / "x.iso", b"")
    content = bytearray(path.read_bytes())
    content[17 * 2048] = 0xFF
    path.write_bytes(content)
    assert found(path) == set()
    path.write_bytes(content[: 16 * 2048])
    assert found(path) == set()


def fat(path: Path, loader: str) -> bytes:
    """A FAT image with a loader for UEFI."""
    content = path.with_name(loader)
    content.write_bytes(b"MZ")
    image = ["-i", str(path)]
    subprocess.run(["mformat", *image, "-C", "-f", "1440", "::"], check=True)
    subprocess.run(["mmd", *image, "::/EFI", "::/EFI/BOOT"], check=True)
    subprocess.run(["mcopy", *image, str(content), "::/EFI/BOOT"], check=True)
    return path.read_bytes()


@pytest.mark.parametrize(("loader", "arch"), [("BOOTX64.EFI", "x86_64"), ("BOOTAA64.EFI", "aarch64")])
def test_its_image_for_uefi_tells_the_architecture(tmp_path: Path, loader: str, arch: str) -> None:
    cd = write_cd(tmp_path / "x.iso", fat(tmp_path / "fat", loader), platform=0xEF)
    base = open_base(cd, format=None, origin="a test", qemu_img=QEMU_IMG)
    layout = read_layout(base, qemu_img=QEMU_IMG)
    assert layout.loaders == (loader,)
    assert not layout.has_boot_code
    assert choose_arch(VmConfig(cdrom=cd), layout=lambda: layout) == arch
    base.close()


def test_one_for_a_bios_is_for_a_pc(tmp_path: Path) -> None:
    base = open_base(write_cd(tmp_path / "x.iso", b""), format=None, origin="a test", qemu_img=QEMU_IMG)
    layout = read_layout(base, qemu_img=QEMU_IMG)
    assert layout.has_boot_code
    assert choose_arch(VmConfig(), layout=lambda: layout) == "x86_64"
    base.close()


@pytest.mark.parametrize("size", [17 * 2048 + 20, 17 * 2048 + 100, 18 * 2048])
def test_one_that_was_cut_off_is_taken_for_what_boots_by_nothing(tmp_path: Path, size: int) -> None:
    whole = write_cd(tmp_path / "x.iso", b"\xf4".ljust(512, b"\0"))
    cd = tmp_path / "cut.iso"
    cd.write_bytes(whole.read_bytes()[:size])
    with cd.open("rb") as file:
        assert boot_images(lambda offset, length: os.pread(file.fileno(), length, offset)) == {}
