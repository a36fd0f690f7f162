"""What the first and last bytes of a disk say of it is what QEMU's own tools have put there."""

import subprocess
from pathlib import Path

import pytest

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.image.disk_formats import is_disk, virtual_size
from pytest_readonly_vm.image.inspection import inspect_chain
from tests.guests import bootsector

QEMU_IMG = Path("/usr/bin/qemu-img")
TYPE, CHECKSUM = 60, 64


def disk(folder: Path, format: str, *options: str) -> Path:
    raw = bootsector.write_image(folder / "raw", bootsector.hello("hello"), size=3 << 20)
    path = folder / "disk"
    choices = ["-o", ",".join(options)] if options else []
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", format, *choices, raw, path], check=True)
    return path


def head(path: Path) -> bytes:
    return path.read_bytes()[: 33 << 10]


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("qcow2", []),
        ("qed", []),
        ("vmdk", []),
        ("vmdk", ["subformat=streamOptimized"]),
        ("vdi", []),
        ("vpc", ["force_size"]),
    ],
)
def test_a_format_says_how_large_the_disk_is(tmp_path: Path, format: str, options: list[str]) -> None:
    assert virtual_size(head(disk(tmp_path, format, *options))) == 3 << 20


@pytest.mark.parametrize("format", ["qcow2", "raw", "qed", "vmdk", "vdi", "vhdx", "vpc"])
def test_what_has_a_format_or_boots_is_certainly_a_disk(tmp_path: Path, format: str) -> None:
    assert is_disk(head(disk(tmp_path, format)))


def test_what_has_neither_need_not_be_one() -> None:
    assert not is_disk(bytes(33 << 10))
    assert not is_disk(b"")
    assert virtual_size(bytes(33 << 10)) is virtual_size(b"QFI\xfb") is None


def formats(path: Path) -> list[str]:
    return [one.format for one in inspect_chain(path, format=None, shown="it", qemu_img=QEMU_IMG)]


def retyped(path: Path, kind: int) -> None:
    """Have a VHD say that it is of another type, in its footer and in the copy at its beginning."""
    content = bytearray(path.read_bytes())
    for offset in (0, len(content) - 512):
        footer = content[offset : offset + 512]
        if footer.startswith(b"conectix"):
            footer[TYPE + 3] = kind
            footer[CHECKSUM : CHECKSUM + 4] = bytes(4)
            footer[CHECKSUM : CHECKSUM + 4] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
            content[offset : offset + 512] = footer
    path.write_bytes(content)


@pytest.mark.parametrize("options", [[], ["force_size"], ["subformat=fixed"], ["subformat=fixed", "force_size"]])
def test_a_vhd_is_one_also_if_it_begins_as_a_raw_disk_does(tmp_path: Path, options: list[str]) -> None:
    assert formats(disk(tmp_path, "vpc", *options)) == ["vpc"]


def test_a_vhd_above_another_is_refused_as_qemu_would_show_zeros(tmp_path: Path) -> None:
    path = disk(tmp_path, "vpc")
    retyped(path, 4)
    with pytest.raises(ImageError, match=r"^it is a VHD with only what differs from another one"):
        formats(path)


def test_the_words_of_a_vhd_alone_make_none(tmp_path: Path) -> None:
    path = disk(tmp_path, "vpc", "subformat=fixed")
    content = path.read_bytes()
    path.write_bytes(content[:-100] + b"x" + content[-99:])  # which the checksum does not fit
    assert formats(path) == ["raw"]
