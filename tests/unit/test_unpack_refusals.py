"""What does not have one disk in it is refused in a sentence."""

import gzip
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.unit.packing import DISK, NEW_BOX, QCOW2, VMDK, converted, link, ovf, refusal, tar, zipped


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
