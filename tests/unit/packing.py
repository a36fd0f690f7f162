"""Owns packed disks: archives and streams as they are published, and what comes out of them."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.sources.unpack import unpack
from tests.guests import bootsector

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


BOX = json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": 1}).encode()
NEW_BOX = json.dumps({"provider": "libvirt", "disks": [{"format": "qcow2", "path": "system.img"}]}).encode()
QCOW2, VMDK = converted("qcow2"), converted("vmdk", "-o", "subformat=streamOptimized")


def raw(path: Path) -> bytes:
    """The disk in an image of another format."""
    target = path.with_name("raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, target], check=True)
    content = target.read_bytes()
    target.unlink()
    return content
