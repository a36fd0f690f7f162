"""Owns what a file that is given as a disk is instead, told by its content: packed, a CD, a kernel, a text, nothing.

A disk may hold anything, so a file is believed to be one unless it begins as no disk does. Where that is said: in the
formats' own descriptions, Linux's boot protocol for ``HdrS`` (https://docs.kernel.org/arch/x86/boot.html), ECMA-119 for
``CD001``.
"""

import bz2
import lzma
import os
import re
import shlex
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from pytest_readonly_vm.printable import count

_SECTOR = 512
_READ = 1 << 20  # bzip2 unpacks nothing before it has a whole block
_LARGEST_TEXT = 1 << 20

_Unpack = Callable[[bytes, int], bytes]
_STREAMS: tuple[tuple[bytes, str, str, Callable[[], _Unpack] | None], ...] = (
    (rb"\x1f\x8b\x08", "gzip", ".gz", lambda: zlib.decompressobj(31).decompress),
    (rb"\xfd7zXZ\0", "xz", ".xz", lambda: lzma.LZMADecompressor().decompress),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "bzip2", ".bz2", lambda: bz2.BZ2Decompressor().decompress),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd", ".zst", None),
    (rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18", "lz4", ".lz4", None),
    (rb"\x89LZO\0\r\n\x1a\n", "lzop", ".lzo", None),
    (rb"LZIP[\0\x01]", "lzip", ".lz", None),
    # Properties, the size of a dictionary, that of the content or -1, and a byte that is always zero.
    (rb"\x5d\0\0(?:[\x01-\xff]\0|\0[\x01-\x08])(?:\xff{8}|.{5}\0{3})\0", "lzma", ".lzma", None),
    (rb"\x1f\x9d[\x09-\x10\x89-\x90]", "gzip", ".Z", None),
)
"""How each begins, the program that unpacks it, the name that it expects, and how to see what is in it."""

_ARCHIVES = (
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a zip archive", "unzip {}"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {}"),
    (rb"Rar!\x1a\x07", "a RAR archive", "unrar x {}"),
    (rb"MSCF\0{4}", "a cabinet archive", "7z x {}"),
    (rb"xar!\0\x1c", "a xar archive", "7z x {}"),
    (rb"!<arch>\ndebian-binary", "a Debian package", "dpkg-deb -x {} FOLDER"),
    (rb"!<arch>\n", "an ar archive", "ar x {}"),
    (rb"\xed\xab\xee\xdb", "an RPM package", "rpm2cpio {} | cpio -idm"),
)
_KERNEL = "a kernel boots without an image, or beside one, by --vm-kernel={}"
_PROGRAMS = (
    (rb"\x7fELF[\x01\x02][\x01\x02]\x01", f"is a program or a kernel (ELF) and no disk; {_KERNEL}"),
    (rb".{510}\x55\xaa.{2}HdrS|.{56}(?:ARM\x64|RSC\x05)|MZ..zimg", f"is a Linux kernel and no disk; {_KERNEL}"),
    (rb"0707(?:01|02|07)[0-9A-Fa-f]{6}", "is a cpio archive; an initial RAM disk is given by --vm-initrd={}"),
)
_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?[^\0-\x08\x0e-\x1a\x1c-\x1f\x7f]+")
_VMDK = re.compile(rb"(?:[ \r]*(?:#[^\n]*)?\n)*version=")  # the description of one, as QEMU finds it


def why_not_a_disk(path: Path) -> str | None:
    """Why this file is no disk, with a command that helps: the rest of a sentence about it, or None.

    :raises OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # which a FIFO in its place cannot hold up
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        data = os.pread(descriptor, _READ, 0)
    finally:
        os.close(descriptor)
    if size == 0:
        return "is empty; did its download come to an end?"
    if _VMDK.match(data):
        return None
    name = shlex.quote(str(path))
    if found := _packed(data, path, name) or _program_or_cd(data, name) or _text(data, size):
        return found
    return (
        f"has {count(size, 'byte')}, less than one sector of a disk; is it the right file?" if size < _SECTOR else None
    )


def _packed(data: bytes, path: Path, name: str) -> str | None:
    for begins, tool, suffix, unpack in _STREAMS:
        if not re.match(begins, data, re.DOTALL):
            continue
        if path.name.endswith(f".tar{suffix}") or (unpack is not None and _is_tar(_unpacked(unpack(), data))):
            return f"is a tar archive, packed by {tool}; give the image that is in it, after: tar xf {name}"
        if path.name.endswith(suffix):
            return f"is packed by {tool}; give what is in it, after: {tool} -dk {name}"
        return (
            f"is packed by {tool}; give what is in it, after: {tool} -dc < {name} > {shlex.quote(f'{path.stem}.img')}"
        )
    kinds = (kind for kind in _ARCHIVES if re.match(kind[0], data))
    _, kind, command = next(kinds, (b"", "a tar archive", "tar xf {}") if _is_tar(data) else (b"", "", ""))
    return f"is {kind}; give the image that is in it, after: {command.format(name)}" if kind else None


def _unpacked(unpack: _Unpack, data: bytes) -> bytes:
    try:
        return unpack(data, _SECTOR)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError):  # damaged, or packed in a way of its own
        return b""


def _is_tar(data: bytes) -> bool:
    """By the checksum of its first member, which tars without any other mark have too."""
    try:
        return bool(tarfile.TarInfo.frombuf(data[:_SECTOR], "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


def _program_or_cd(data: bytes, name: str) -> str | None:
    for begins, sentence in _PROGRAMS:
        if re.match(begins, data, re.DOTALL):
            return sentence.format(name)
    if data[510:512] == b"\x55\xaa":
        return None  # a boot sector: what else it may be, such as a CD that is a disk as well, boots as a disk
    header = int.from_bytes(data[60:64], "little")
    if data.startswith(b"MZ") and data[header : header + 4] == b"PE\0\0":
        return f"is a program for EFI or Windows and no disk; {_KERNEL.format(name)}"
    if data[32769:32774] in (b"CD001", b"BEA01"):
        return (
            "is a CD or DVD and no disk; give a disk as the image, such as an empty one (qemu-img create -f qcow2 "
            f'disk.qcow2 8G), and the CD beside it by --vm-qemu-args="-cdrom {name}"'
        )
    return None


def _text(data: bytes, size: int) -> str | None:
    start = data[:_SECTOR]
    if size > _LARGEST_TEXT or b"\n" not in start or not _TEXT.fullmatch(start):
        return None
    if start.startswith(b"version https://git-lfs.github.com/"):
        return "is a pointer of Git LFS and not what it points at; get that by: git lfs pull"
    if re.match(rb"\s*<(?:!doctype|html|head|\?xml)", start, re.IGNORECASE):
        return "is a web page and no disk, such as the error of a download; download it again"
    return "is a text and no disk; is it the right file?"
