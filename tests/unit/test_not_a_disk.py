"""A file that is no disk is told by what is in it, with a command that helps; whatever a disk may hold is a disk."""

import bz2
import gzip
import io
import lzma
import os
import random
import shlex
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from pytest_readonly_vm.image.not_a_disk import why_not_a_disk
from tests.guests import bootsector

DISK = bootsector.writer("hello").ljust(bootsector.SECTOR_SIZE, b"\0") + random.Random(1).randbytes(1 << 16)


def tar(*, mode: str = "w:", format: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode, format=format) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("box.img")
        member.size = len(DISK)
        archive.addfile(member, io.BytesIO(DISK))
    return packed.getvalue()


def old_tar() -> bytes:
    """As tars were before they had a magic number."""
    content = bytearray(tar(format=tarfile.USTAR_FORMAT))
    content[257:265] = bytes(8)
    content[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(content[:512]))[0]  # type: ignore[attr-defined]
    return bytes(content)


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("box.img", DISK)
    return packed.getvalue()


def at(position: int, data: bytes) -> bytes:
    return bytes(position) + data + bytes(4096)


PAGE = b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("disk.raw.gz", gzip.compress(DISK), "packed by gzip; *: gzip -dk {}"),
        ("disk", gzip.compress(DISK), "packed by gzip; *: gzip -dc < {} > disk.img"),
        ("disk.xz", lzma.compress(DISK), "packed by xz; *: xz -dk {}"),
        ("disk.lzma", lzma.compress(DISK, format=lzma.FORMAT_ALONE), "packed by lzma; *: lzma -dk {}"),
        ("disk.bz2", bz2.compress(DISK), "packed by bzip2; *: bzip2 -dk {}"),
        ("disk.zst", b"\x28\xb5\x2f\xfd" + DISK, "packed by zstd; *: zstd -dk {}"),
        ("disk.tar.zst", b"\x28\xb5\x2f\xfd" + DISK, "a tar archive, packed by zstd; *: tar xf {}"),
        ("a b.box", tar(mode="w:gz"), "a tar archive, packed by gzip; *: tar xf {}"),
        ("disk.tbz", tar(mode="w:bz2"), "a tar archive, packed by bzip2; *: tar xf {}"),
        ("disk.txz", tar(mode="w:xz"), "a tar archive, packed by xz; *: tar xf {}"),
        ("disk.ova", tar(), "a tar archive; *: tar xf {}"),
        ("disk.tar", tar(format=tarfile.GNU_FORMAT), "a tar archive; *: tar xf {}"),
        ("disk.tar", old_tar(), "a tar archive; *: tar xf {}"),
        ("disk.zip", zipped(), "a zip archive; *: unzip {}"),
        ("disk.7z", b"7z\xbc\xaf\x27\x1c" + DISK, "a 7z archive; *: 7z x {}"),
        ("disk.deb", b"!<arch>\ndebian-binary   1", "a Debian package; *: dpkg-deb -x {} FOLDER"),
        ("disk.rpm", b"\xed\xab\xee\xdb" + DISK, "an RPM package; *: rpm2cpio {} | cpio -idm"),
        ("ls", Path("/bin/sh").read_bytes(), "a program or a kernel (ELF) *--vm-kernel={}"),
        ("bzImage", at(510, b"\x55\xaa\xeb\x66HdrS"), "a Linux kernel *--vm-kernel={}"),
        ("Image", at(56, b"ARM\x64"), "a Linux kernel *--vm-kernel={}"),
        ("x.efi", b"MZ" + bytes(58) + b"\x80\0\0\0" + at(64, b"PE\0\0"), "a program for EFI *--vm-kernel={}"),
        ("initrd", b"070701" + b"0" * 600, "a cpio archive; *--vm-initrd={}"),
        ("disk.qcow2", PAGE, "a web page and no disk, *; download it again"),
        ("disk.qcow2", POINTER, "a pointer of Git LFS *: git lfs pull"),
        ("disk.qcow2", b"#!/bin/sh\necho version=1\n" * 99, "a text and no disk; is it the right file?"),
    ],
)  # fmt: skip
def test_what_is_no_disk_is_named_with_what_helps(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    start, _, end = f"is {words}".format(shlex.quote(str(path))).partition("*")
    said = why_not_a_disk(path)
    assert said is not None
    assert said.startswith(start)
    assert said.endswith(end)


@pytest.mark.parametrize("tool", ["zstd", "lz4"])
def test_other_programs_pack_as_is_believed(tmp_path: Path, tool: str) -> None:
    try:
        packed = subprocess.run([tool, "-c"], input=DISK, capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip(f"{tool} is not installed")
    (tmp_path / "disk").write_bytes(packed)
    assert f"is packed by {tool}" in str(why_not_a_disk(tmp_path / "disk"))


@pytest.mark.parametrize(("size", "words"), [(0, "is empty; "), (1, "has 1 byte, "), (511, "has 511 bytes, ")])
def test_less_than_a_sector_is_no_disk(tmp_path: Path, size: int, words: str) -> None:
    (tmp_path / "disk").write_bytes(bytes(size))
    assert str(why_not_a_disk(tmp_path / "disk")).startswith(words)


@pytest.mark.parametrize(
    "content",
    [
        DISK,
        DISK[:512],
        bytes(1 << 20),
        b"\xff" * (1 << 16),
        b"A" * (1 << 16),
        b"\x5d" + bytes(9000),
        random.Random(2).randbytes(1 << 16),
        at(1024 + 56, b"\x53\xef"),  # ext4, without a partition
        b"XFSB" + bytes(9000),
        b"LUKS\xba\xbe\0\1" + bytes(9000),
        at(512, b"LABELONE"),  # a physical volume of LVM
        b"hsqs" + DISK,
        *(at(512 * sector, gzip.compress(DISK)) for sector in (1, 63, 2048)),
        at(510, b"\x55\xaa") + tar(),
        at(32768, b"\x01CD001\x01"),  # a CD, which is a disk to be read
        b"line\n" * (1 << 18),  # larger than anybody's page of an error
    ],
)
def test_whatever_a_disk_may_hold_is_a_disk(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert why_not_a_disk(tmp_path / "disk") is None


@pytest.mark.parametrize("format", ["qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc"])
def test_every_format_of_disks_is_one(tmp_path: Path, format: str) -> None:
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", format, path, "1M"], check=True)
    assert why_not_a_disk(path) is None


def test_the_description_of_a_vmdk_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M"], check=True)
    assert path.stat().st_size < 1024
    assert why_not_a_disk(path) is None


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Illegal seek"):
        why_not_a_disk(tmp_path / "pipe")
