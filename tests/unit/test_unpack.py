"""The one disk in a file comes out of it as it went in, whatever it is packed by, and nothing else does."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.sources.unpack import is_packed, unpack
from tests.guests import bootsector
from tests.sparse_member import sparse_member

QEMU_IMG = Path("/usr/bin/qemu-img")
DISK = (
    bootsector.hello("hello").ljust(bootsector.SECTOR_SIZE, b"\0")
    + random.Random(1).randbytes(1 << 16)
    + bytes(1 << 19)
    + random.Random(2).randbytes(777)
).ljust(1 << 20, b"\0")
LIMIT = 64 << 20
Pack = Callable[[bytes], bytes]


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-qc", *options], input=data, capture_output=True, check=True).stdout


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:", format=format) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return packed.getvalue()


def link(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return packed.getvalue()


def ovf(*files: str) -> bytes:
    references = "".join(f'<File ovf:href="{name}" ovf:id="f{number}"/>' for number, name in enumerate(files))
    disks = "".join(f'<Disk ovf:diskId="d{number}" ovf:fileRef="f{number}"/>' for number, _ in enumerate(files))
    return (
        '<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
        f'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>{references}</References>'
        f'<DiskSection>{disks}<Disk ovf:diskId="empty" ovf:capacity="5"/></DiskSection></Envelope>'
    ).encode()


def converted(format: str, *options: str, data: bytes = DISK) -> bytes:
    """The disk in another format."""
    descriptor = os.memfd_create("disk")
    target = os.memfd_create("converted")
    os.write(descriptor, data)
    argv = ["qemu-img", "convert", "-f", "raw", "-O", format, *options, f"/proc/self/fd/{descriptor}"]
    subprocess.run([*argv, f"/proc/self/fd/{target}"], check=True, pass_fds=(descriptor, target))
    with open(target, "rb") as file:  # noqa: PTH123
        os.close(descriptor)
        file.seek(0)
        return file.read()


def put(folder: Path, data: bytes, name: str = "image") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def taken(folder: Path, data: bytes, *, limit: int = LIMIT) -> Path:
    """The disk in such a file."""
    source = put(folder, data)
    target = folder / "target"
    target.mkdir()
    return unpack(source, target, limit=limit, shown="it", qemu_img=QEMU_IMG)


def refusal(folder: Path, data: bytes, *, limit: int = LIMIT) -> str:
    """Why there is no disk in such a file, of which nothing is left."""
    with pytest.raises(ImageError) as caught:
        taken(folder, data, limit=limit)
    assert list((folder / "target").iterdir()) == []
    return str(caught.value)


STREAMS: dict[str, Pack] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    "bzip2": bz2.compress,
    "zstd": zstd,
}


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
        source = put(tmp_path, STREAMS[name](DISK[:512] + bytes(64 << 20)))
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


BOX = json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": 1}).encode()
NEW_BOX = json.dumps({"provider": "libvirt", "disks": [{"format": "qcow2", "path": "system.img"}]}).encode()
QCOW2, VMDK = converted("qcow2"), converted("vmdk", "-o", "subformat=streamOptimized")


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
        (lzma.compress(tar(("disk.raw.gz", gzip.compress(DISK)))), DISK),
        (gzip.compress(bz2.compress(lzma.compress(DISK))), DISK),
        (zipped(("disk.raw", DISK)), DISK),
        (zipped(("disk.raw", DISK), method=zipfile.ZIP_STORED), DISK),
        (zipped(("disk.raw", DISK), method=zipfile.ZIP_BZIP2), DISK),
        (zipped(("disk/", b""), ("disk/x.raw", DISK), ("disk/LIES.MICH", b"lies\n")), DISK),
        (zipped(("x.tar.xz", lzma.compress(tar(("disk.raw", DISK))))), DISK),
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


def raw(path: Path) -> bytes:
    """The disk in an image of another format."""
    target = path.with_name("raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, target], check=True)
    content = target.read_bytes()
    target.unlink()
    return content


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


def header(format: str, offset: int, value: bytes) -> bytes:
    data = bytearray(converted(format))
    data[offset : offset + len(value)] = value
    return bytes(data)


def backed() -> bytes:
    descriptor = os.memfd_create("disk")
    argv = ["qemu-img", "create", "-qu", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow"]
    subprocess.run([*argv, f"/proc/self/fd/{descriptor}", "1M"], check=True, pass_fds=(descriptor,))
    with open(descriptor, "rb") as file:  # noqa: PTH123
        file.seek(0)
        return file.read()


def described(parent: str) -> bytes:
    """A VMDK whose description names another one as its parent."""
    data = bytearray(converted("vmdk"))
    at = data.index(b"parentCID=")
    end = data.index(b"\0", at)
    text = data[at:end].replace(
        b"parentCID=ffffffff", b'parentCID=12345678\nparentFileNameHint="' + parent.encode() + b'"'
    )
    data[at : at + len(text)] = text
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(zipped(("disk.raw", DISK)))
    data[6] |= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1
    return bytes(data)


def header_of_headers(times: int) -> bytes:
    return tar(("x", DISK)).join([tarfile.TarInfo.create_pax_global_header({"a": "b"}) * times, b""])


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


SYMLINK = zipfile.ZipInfo("disk.raw")
SYMLINK.external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tar(("a.img", DISK), ("b.img", QCOW2)), "it has 2 disks in it, a.img and b.img; give the *: tar xf * NAME"),
        (zipped(("a.img", DISK), ("b.img", QCOW2)), "it has 2 disks in it, a.img and b.img; * unzip * NAME"),
        (tar(("x.ovf", ovf("a.vmdk", "b.vmdk")), ("a.vmdk", VMDK)), "it has 2 disks in it, a.vmdk and b.vmdk; *"),
        (tar(("README", b"read me\n")), "it has no disk in it: README is a text and no disk; *"),
        (tar(("disk.raw", b"")), "it has no disk in it: disk.raw is empty; *"),
        (zipped(), "it has no disk in it"),
        (gzip.compress(b"<html>\n<title>404</title>\n"), "it has no disk in it: image is a web page *"),
        (gzip.compress(b""), "it has no disk in it: image is empty; *"),
        (gzip.compress(b"\x04\x22\x4d\x18" + DISK), "it has no disk in it: image is packed by lz4, *by hand"),
        (tar(("x.7z", b"7z\xbc\xaf\x27\x1c" + DISK)), "it has no disk in it: x.7z is a 7z archive, *by hand"),
        (gzip.compress(zipped(("disk.raw", DISK))), "it has no disk in it: image is a zip archive, *by hand"),
        (tar(("x.ovf", ovf("../x.vmdk")), ("y.vmdk", VMDK)), "it names ../x.vmdk as its disk, and has no such *"),
        (tar(("x.ovf", b"<Envelope"), ("y.vmdk", VMDK)), "it: x.ovf cannot be understood: *"),
        (tar(("x.ovf", b'<!DOCTYPE x [<!ENTITY a "b">]><x/>'), ("y.vmdk", VMDK)), "it: x.ovf cannot be understood: *"),
        (
            tar(("x.ovf", '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x><x/>'.encode("utf-16")), ("y", VMDK)),
            "it: x.ovf cannot be understood: it is not in UTF-8",
        ),
        (tar(("x.ovf", "<!DOCTYPE x><x/>".encode("utf-16-le")), ("y", VMDK)), "it: x.ovf *: it is not in UTF-8"),
        (header_of_headers(2000), "it is damaged: it has a header of a header of a header; download it again"),
        (tar(("x.ovf", b'<?xml version="1.0" encoding="nope"?><'), ("y", VMDK)), "it: x.ovf cannot be understood: *"),
        (tar(("metadata.json", b"[" * 100_000), ("box.img", VMDK)), "it: metadata.json cannot be understood: *"),
        (tar(link("disk.img", tarfile.SYMTYPE)), "it has no disk in it: disk.img is a symbolic link"),
        (tar(link("disk.img", tarfile.LNKTYPE)), "it has no disk in it: disk.img is a hard link"),
        (tar(link("disk.img", tarfile.CHRTYPE)), "it has no disk in it: disk.img is a device or a pipe"),
        (tar(link("disk.img", tarfile.FIFOTYPE)), "it has no disk in it: disk.img is a device or a pipe"),
        (zipped((SYMLINK, b"/etc/passwd")), "it has no disk in it: disk.raw is a symbolic link"),
        (
            tar(link("system.img", tarfile.SYMTYPE), ("x", DISK), ("metadata.json", NEW_BOX)),
            "it has a symbolic link in the place of its disk system.img",
        ),
        (tar(("disk.raw", DISK))[: 1 << 19], "it is damaged or truncated, tar finds: *"),
        (gzip.compress(tar(("disk.raw", DISK)))[:-20], "it is truncated: it ends within what gzip has packed"),
        (changed(gzip.compress(tar(("disk.raw", DISK))), -7), "it is damaged, gzip finds: *"),
        (zipped(("disk.raw", DISK))[:-100], "it is damaged or truncated, zip finds: *"),
        (changed(zipped(("a", DISK), method=zipfile.ZIP_STORED), 9999), "it is damaged or truncated, zip finds: *"),
        (encrypted(), "it is encrypted, and there is no setting for a key; unpack it by hand"),
        (tar(("box.img", backed())), "it: box.img is only what was written above another disk, /etc/shadow, *"),
        (gzip.compress(backed()), "it: image is only what was written above another disk, /etc/shadow, *"),
        (tar(("x.vmdk", described("/etc/shadow"))), "it: x.vmdk is only what was written above another disk, /etc/*"),
        (tar(("x.img", header("qcow2", 72, bytes(7) + b"\4"))), "it: x.img is a disk in several files, *"),
        (tar(("x.vmdk", header("vmdk", 12, bytes(8)))), "it: x.vmdk is a disk in several files, *"),
        (
            tar(("x.vmdk", b"# Disk DescriptorFile\nversion=1\n"), ("x-s001.vmdk", VMDK), ("x-s002.vmdk", VMDK)),
            "it has a VMDK in several files in it; * tar xf *, then qemu-img convert -O qcow2 x.vmdk disk.qcow2",
        ),
        (gzip.compress(b'# Disk DescriptorFile\nversion=1\nRW 1 FLAT "/etc/shadow" 0\n'), "it has no disk in it: *"),
    ],
)  # fmt: skip
def test_what_is_not_one_disk_is_refused_in_a_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    said = refusal(tmp_path, data)
    for part in words.split("*"):
        assert part in said
    assert said.startswith(words.partition("*")[0])
    assert "\n" not in said


def packed_often(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = gzip.compress(data)
    return data


def test_what_is_packed_over_and_over_is_refused(tmp_path: Path) -> None:
    assert "packed more than 4 times over" in refusal(tmp_path, packed_often(DISK, 5))


BOX_OF_DISK = tar(("metadata.json", b'{"disks": [{"path": "disk.raw"}]}'))


def zeros(size: int) -> bytes:
    """A gzip of a disk with so many zeros, of one in a thousand."""
    pack = zlib.compressobj(wbits=31)
    parts = [pack.compress(DISK[:4096])]
    parts += [pack.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, pack.flush()])


class TestBombs:
    def test_zeros_are_bounded_by_a_multiple_of_the_limit(self, tmp_path: Path) -> None:
        assert taken(tmp_path, zeros(3 << 20), limit=1 << 20).stat().st_blocks * 512 < 1 << 16
        (tmp_path / "target" / "disk").unlink()
        (tmp_path / "target").rmdir()
        said = refusal(tmp_path, zeros(5 << 20), limit=1 << 20)
        assert "image is too large: more than 4 times what the store of images may take" in said

    def test_the_holes_of_what_nobody_wants_cost_nothing(self, tmp_path: Path) -> None:
        data = BOX_OF_DISK[: 2 << 9] + sparse_member("README", b"read me\n", 1 << 60) + tar(("disk.raw", DISK))
        assert taken(tmp_path, data).read_bytes() == DISK

    def test_the_holes_of_a_disk_are_bounded(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, sparse_member("disk.raw", DISK[:4096], 1 << 60))
        assert "disk.raw is too large: more than 4 times what the store of images may take" in said

    def test_what_nobody_wants_of_what_is_packed_is_bounded(self, tmp_path: Path) -> None:
        data = gzip.compress(BOX_OF_DISK[: 2 << 9] + tar(("README", bytes(17 << 20)), ("disk.raw", DISK)), 1)
        assert "it has more in it than 16 times what" in refusal(tmp_path, data, limit=1 << 20)

    def test_the_zeros_behind_a_packed_disk_are_bounded(self, tmp_path: Path) -> None:
        """Which may stand between two streams, so they are read."""
        packed = sparse_member("disk.gz", gzip.compress(DISK), 1 << 60)
        assert "it has more in it than 16 times what" in refusal(tmp_path, packed, limit=1 << 20)

    def test_data_is_bounded_by_the_limit(self, tmp_path: Path) -> None:
        data = gzip.compress(DISK[:512] + random.Random(5).randbytes(1 << 20) * 4)
        assert "more than the 2 MiB that the store of images may take; " in refusal(tmp_path, data, limit=2 << 20)

    def test_zeros_behind_a_disk_are_bounded_by_its_own_size(self, tmp_path: Path) -> None:
        pack = zlib.compressobj(wbits=31)
        data = pack.compress(QCOW2) + b"".join(pack.compress(bytes(1 << 20)) for _ in range(100)) + pack.flush()
        said = refusal(tmp_path, data, limit=1 << 30)
        assert "image is too large: more than what a disk of the size in its header takes" in said

    def test_what_a_disk_has_packed_itself_is_bounded_by_the_limit(self, tmp_path: Path) -> None:
        disk = converted("vmdk", "-o", "subformat=streamOptimized", data=DISK[:512] + b"a" * ((8 << 20) - 512))
        said = refusal(tmp_path, tar(("x.vmdk", disk)), limit=1 << 20)
        assert said == "it: x.vmdk takes more than the 1 MiB that the store of images may take"

    def test_what_a_member_says_of_its_size_is_looked_at_first(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("disk.img")
        info.size = 1 << 50
        data = info.tobuf(tarfile.GNU_FORMAT) + DISK
        assert "disk.img is too large" in refusal(tmp_path, data)

    def test_a_header_of_a_tar_cannot_fill_the_memory(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
        pack = zlib.compressobj(wbits=31)
        data = pack.compress(info.tobuf(tarfile.GNU_FORMAT))
        data += b"".join(pack.compress(b"a" * (1 << 20)) for _ in range(40)) + pack.flush()
        assert "more than 16 MiB of headers for one file" in refusal(tmp_path, data)

    def test_members_without_end_are_refused(self, tmp_path: Path) -> None:
        data = tarfile.TarInfo("x").tobuf() * 10_001
        assert "is an archive of more than 10000 files" in refusal(tmp_path, gzip.compress(data))

    def test_the_directory_of_a_zip_cannot_fill_the_memory(self, tmp_path: Path) -> None:
        size = 17 << 20
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, 4, 0)
        assert "more than 16 MiB of headers" in refusal(tmp_path, b"PK\3\4" + bytes(size) + end)

    def test_a_dictionary_without_end_is_refused(self, tmp_path: Path) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
        said = refusal(tmp_path, _with_dictionary(filters))
        assert "takes more memory to unpack than it may" in said

    def test_a_window_without_end_is_refused(self, tmp_path: Path) -> None:
        # A frame's header: the magic, a descriptor without size of content, the window: 2 ** (10 + 30 - 9).
        said = refusal(tmp_path, b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + bytes(100))
        assert "takes more memory to unpack than it may" in said


def _with_dictionary(filters: list[dict[str, int]]) -> bytes:
    """An xz whose header asks for a large dictionary, without the memory that packing with it would take."""
    data = bytearray(lzma.compress(DISK, format=lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    # The block header is at 12: size, flags, id 0x21, size of properties 1, the dictionary as 2 or 3 << n; its CRC.
    assert data[14:16] == b"\x21\x01"
    bits = filters[0]["dict_size"].bit_length() - 1
    data[16] = (bits - 12) * 2
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    return bytes(data)


class TestTheWayThere:
    def test_progress_is_that_of_the_packed_file(self, tmp_path: Path) -> None:
        for data in (lzma.compress(DISK), tar(("a", b"x\n" * 999), ("disk", DISK)), zipped(("disk", DISK))):
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
