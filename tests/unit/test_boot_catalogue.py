"""A CD says by what firmware it boots."""

import os
import struct
from pathlib import Path

import pytest

from pytest_readonly_vm.image.boot_catalogue import firmware_of_cd
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from tests.guests.cd import write_cd

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
