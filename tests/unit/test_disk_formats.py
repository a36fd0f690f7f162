"""What the first and last bytes of a disk say of it is what QEMU's own tools have put there."""

import subprocess
from pathlib import Path

import pytest

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.image.disk_formats import DIFFERENCING, FIXED, FOOTER, is_disk, vhd_type, virtual_size
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


def kind(path: Path) -> int | None:
    content = path.read_bytes()
    return vhd_type(content[-FOOTER:], len(content))


def test_a_vhd_is_known_by_its_footer(tmp_path: Path) -> None:
    assert kind(disk(tmp_path, "vpc")) == 3
    fixed = disk(tmp_path, "vpc", "subformat=fixed", "force_size")
    assert kind(fixed) == FIXED
    content = fixed.read_bytes()
    fixed.write_bytes(content[:-100] + b"x" + content[-99:])  # which the checksum does not fit
    assert kind(fixed) is None
    fixed.write_bytes(content[-FOOTER:] * 2)  # the end of a longer disk
    assert kind(fixed) is None
    assert kind(disk(tmp_path, "raw")) is None


def test_a_vhd_above_another_is_refused_as_qemu_would_show_zeros(tmp_path: Path) -> None:
    path = disk(tmp_path, "vpc")
    retyped(path, DIFFERENCING)
    with pytest.raises(ImageError, match=r"^it is a VHD with only what differs from another one"):
        inspect_chain(path, format=None, shown="it", qemu_img=QEMU_IMG)
