"""The one disk in a file comes out of it as it went in, whatever it is packed by."""

import bz2
import gzip
import os
import random
import resource
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.sources.unpack import is_packed, unpack
from tests.unit.packing import (
    BOX,
    DISK,
    LIMIT,
    NEW_BOX,
    QCOW2,
    QEMU_IMG,
    STREAMS,
    VMDK,
    converted,
    link,
    ovf,
    put,
    raw,
    refusal,
    taken,
    tar,
    zipped,
    zstd,
)

PEAK = """\
import resource, sys
from pathlib import Path
from pytest_readonly_vm.sources.unpack import unpack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unpack(Path(sys.argv[1]), Path(sys.argv[2]), limit=1 << 30, shown="", qemu_img=Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
"""Prints by how many KiB the memory of a process grows at most while it unpacks."""


@pytest.mark.parametrize("name", STREAMS)
class TestStreams:
    def test_the_disk_comes_out_as_it_went_in_with_its_holes(self, tmp_path: Path, name: str) -> None:
        packed = STREAMS[name](DISK)
        assert is_packed(put(tmp_path, packed))
        path = taken(tmp_path, packed)
        assert path.read_bytes() == DISK
        assert path.stat().st_blocks * 512 <= 128 << 10
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("part", [0.01, 0.5, 0.9999])
    def test_a_truncated_one_is_refused(self, tmp_path: Path, name: str, part: float) -> None:
        packed = STREAMS[name](DISK)
        assert "truncated" in refusal(tmp_path, packed[: int(len(packed) * part)])

    def test_a_damaged_one_is_refused(self, tmp_path: Path, name: str) -> None:
        packed = bytearray(STREAMS[name](random.Random(3).randbytes(1 << 19)))
        packed[-3 if name == "gzip" else len(packed) // 2] ^= 0x55
        if name == "lzma":
            packed[20:40] = b"\xff" * 20  # it has no checksum
        said = refusal(tmp_path, bytes(packed))
        assert said.startswith("it is damaged, ") or "truncated" in said

    def test_its_memory_is_bounded(self, tmp_path: Path, name: str) -> None:
        source = put(tmp_path, STREAMS[name](DISK[:512] + bytes(32 << 20)))
        argv = [sys.executable, "-c", PEAK, str(source), str(tmp_path), str(QEMU_IMG)]
        grown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert int(grown) < 24 << 10


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2", "zstd"])
def test_several_streams_are_one_disk_and_what_follows_is_not_minded(tmp_path: Path, name: str) -> None:
    half = len(DISK) // 2
    parts = STREAMS[name](DISK[:half]), STREAMS[name](b""), STREAMS[name](DISK[half:])
    padding = bytes(8) if name in ("gzip", "xz") else b""
    assert taken(tmp_path, padding.join(parts) + padding + b"signature").read_bytes() == DISK


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (DISK, False),
        (b"", False),
        (converted("qcow2"), False),
        (b"7z\xbc\xaf\x27\x1c" + DISK, False),
        (b"\x04\x22\x4d\x18" + DISK, False),
        (tar(("disk.img", DISK)), True),
        (zipped(("disk.img", DISK)), True),
    ],
)
def test_what_is_to_be_unpacked_is_known_by_its_beginning(tmp_path: Path, data: bytes, is_one: bool) -> None:
    assert is_packed(put(tmp_path, data)) is is_one


def test_what_is_no_file_is_not_unpacked(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert not is_packed(tmp_path / "fifo")
    assert not is_packed(tmp_path)


@pytest.mark.parametrize(
    ("data", "disk"),
    [
        (tar(("metadata.json", BOX), ("Vagrantfile", b"Vagrant.configure\n"), ("box.img", QCOW2)), QCOW2),
        (tar(("other.img", DISK), ("box.img", QCOW2), ("metadata.json", BOX)), QCOW2),
        (gzip.compress(tar(("./box.img", QCOW2), ("./metadata.json", BOX))), QCOW2),
        (gzip.compress(tar(("spare.img", DISK), ("system.img", QCOW2), ("metadata.json", NEW_BOX))), QCOW2),
        (gzip.compress(tar(("metadata.json", NEW_BOX), ("spare.img", DISK), ("system.img", QCOW2))), QCOW2),
        (tar(("x.ovf", ovf("x.vmdk")), ("x.mf", b"SHA256\n"), ("x.vmdk", VMDK), ("y.iso", DISK)), VMDK),
        (tar(("x.vmdk", VMDK), ("y.img", DISK), ("x.ovf", ovf("x.vmdk"))), VMDK),
        (tar(("x/y.ovf", ovf("a%20b.vmdk")), ("x/a b.vmdk", VMDK), ("x/c.vmdk", QCOW2)), VMDK),
        (tar(("./x/system.img", QCOW2), ("./x/y.img", DISK), ("./x/metadata.json", NEW_BOX)), QCOW2),
        (tar(("x.ovf", ovf("x.vmdk.gz")), ("x.vmdk.gz", gzip.compress(VMDK))), VMDK),
        (tar(("README", b"read me\n"), ("vars.fd", bytes(1 << 18)), ("disk.raw", DISK)), DISK),
        (tar(("a" * 300 + "/disk.raw", DISK), format=tarfile.PAX_FORMAT), DISK),
        (tar(("../../disk.raw", DISK)), DISK),
        (tar(("/etc/disk.raw", DISK)), DISK),
        (tar(("disk.raw", DISK), link("latest", tarfile.SYMTYPE, "disk.raw")), DISK),
        (zstd(tar(("disk.raw", DISK))), DISK),
        (STREAMS["xz"](tar(("disk.raw.gz", gzip.compress(DISK)))), DISK),
        (gzip.compress(bz2.compress(STREAMS["xz"](DISK))), DISK),
        (zipped(("disk.raw", DISK)), DISK),
        (zipped(("disk.raw", DISK), method=zipfile.ZIP_STORED), DISK),
        (zipped(("disk.raw", DISK), method=zipfile.ZIP_BZIP2), DISK),
        (zipped(("disk/", b""), ("disk/x.raw", DISK), ("disk/LIES.MICH", b"lies\n")), DISK),
        (zipped(("x.tar.xz", STREAMS["xz"](tar(("disk.raw", DISK))))), DISK),
        (zipped(("metadata.json", BOX), ("box.img", QCOW2)), QCOW2),
        (tar(("disk.vmdk", b'# Disk DescriptorFile\nversion=1\nRW 8192 FLAT "f.vmdk" 0\n'), ("f.vmdk", DISK)), DISK),
    ],
)
def test_the_disk_of_an_archive_is_found(tmp_path: Path, data: bytes, disk: bytes) -> None:
    path = taken(tmp_path, data)
    assert list(path.parent.iterdir()) == [path]
    if disk is not VMDK:
        assert path.read_bytes() == disk
    else:
        assert raw(path) == DISK
    assert sorted(tmp_path.iterdir()) == [tmp_path / "image", tmp_path / "target"]


@pytest.mark.parametrize("format", ["vmdk", "vdi", "vhdx", "vpc"])
def test_what_guests_cannot_be_frozen_with_becomes_what_they_can(tmp_path: Path, format: str) -> None:
    options = ("-o", "force_size") if format == "vpc" else ()
    path = taken(tmp_path, zipped((f"disk.{format}", converted(format, *options))))
    assert path == tmp_path / "target" / "disk.qcow2"
    assert raw(path) == DISK
    assert list(path.parent.iterdir()) == [path]


def test_a_fixed_vhd_becomes_the_raw_disk_that_it_is(tmp_path: Path) -> None:
    path = taken(tmp_path, gzip.compress(converted("vpc", "-o", "subformat=fixed,force_size")))
    assert path.read_bytes() == DISK


@pytest.mark.parametrize(
    ("name", "kept"),
    [("x/debian-12.raw", "debian-12.raw"), ("manifest.json", "disk"), ("../a\nb.img", "disk"), ("-x.img", "disk")],
)
def test_a_disk_keeps_its_name_if_it_is_one(tmp_path: Path, name: str, kept: str) -> None:
    assert taken(tmp_path, tar((name, DISK))).name == kept


def test_a_sparse_file_in_a_tar_has_its_holes(tmp_path: Path) -> None:
    put(tmp_path, b"", "disk.img")
    with (tmp_path / "disk.img").open("wb") as file:
        for offset in range(0, 64 << 20, 1 << 20):
            file.seek(offset)
            file.write(DISK[: 1 << 12])
        file.truncate(100 << 20)
    argv = ["tar", "-C", str(tmp_path), "-cSf", "-", "disk.img"]
    data = subprocess.run(argv, capture_output=True, check=True).stdout
    assert len(data) < 1 << 20
    path = taken(tmp_path, data)
    assert path.stat().st_size == 100 << 20
    assert path.stat().st_blocks * 512 < 1 << 20
    assert path.read_bytes() == (tmp_path / "disk.img").read_bytes()


class TestTheWayThere:
    def test_progress_is_that_of_the_packed_file(self, tmp_path: Path) -> None:
        for data in (STREAMS["xz"](DISK), tar(("a", b"x\n" * 999), ("disk", DISK)), zipped(("disk", DISK))):
            source, told = put(tmp_path, data), list[tuple[int, int | None]]()

            def tell(done: int, size: int | None, told: list[tuple[int, int | None]] = told) -> None:
                told.append((done, size))

            unpack(source, tmp_path, limit=LIMIT, shown="it", qemu_img=QEMU_IMG, progress=tell).unlink()
            assert {size for _, size in told} == {len(data)}
            assert max(done for done, _ in told) == len(data)

    def test_whoever_interrupts_it_finds_nothing(self, tmp_path: Path) -> None:
        source = put(tmp_path, gzip.compress(DISK[:512] + random.Random(5).randbytes(4 << 20)))

        def interrupt(done: int, size: int | None) -> None:
            if done > 1 << 20:
                raise KeyboardInterrupt

        (tmp_path / "target").mkdir()
        with pytest.raises(KeyboardInterrupt):
            unpack(source, tmp_path / "target", limit=LIMIT, shown="", qemu_img=QEMU_IMG, progress=interrupt)
        assert not list((tmp_path / "target").iterdir())

    def test_where_there_is_no_room_it_says_how_much_it_takes(self, tmp_path: Path) -> None:
        data = random.Random(5).randbytes(3 << 20)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        source = put(tmp_path, tar(("disk.img", DISK[:512] + data)))
        (tmp_path / "target").mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))
        try:
            with pytest.raises(
                ImageError, match=r"^it cannot be unpacked into .*target: .*; its disk takes up to 3 MiB"
            ):
                unpack(source, tmp_path / "target", limit=LIMIT, shown="it", qemu_img=QEMU_IMG)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list((tmp_path / "target").iterdir())

    def test_what_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="it cannot be unpacked: No such file or directory"):
            unpack(tmp_path / "missing", tmp_path, limit=LIMIT, shown="it", qemu_img=QEMU_IMG)

    def test_without_its_library_zstd_is_refused_with_what_helps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("backports.zstd", "compression.zstd"):
            monkeypatch.setitem(sys.modules, name, None)
        assert "pip install 'pytest-readonly-vm[images]'" in refusal(tmp_path, zstd(DISK))
