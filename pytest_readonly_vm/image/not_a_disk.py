"""Owns what a file that is given as a disk is instead, told by its content: packed, a kernel, a text, nothing.

A disk may hold anything, so a file is believed to be one unless it begins as no disk does. Where that is said: in the
formats' own descriptions, Linux's boot protocol for ``HdrS`` (https://docs.kernel.org/arch/x86/boot.html).
"""

import os
import re
import shlex
from pathlib import Path

from pytest_readonly_vm.image.disk_formats import is_description_of_vmdk
from pytest_readonly_vm.image.packed_streams import beginning
from pytest_readonly_vm.image.signatures import Archive, Stream, is_tar, packing_of
from pytest_readonly_vm.printable import count

_SECTOR = 512
_READ = 1 << 20  # bzip2 unpacks nothing before it has a whole block
_LARGEST_TEXT = 1 << 20

_KERNEL = "a kernel boots without an image, or beside one, by --vm-kernel={}"
_PROGRAMS = (
    (rb"\x7fELF[\x01\x02][\x01\x02]\x01", f"is a program or a kernel (ELF) and no disk; {_KERNEL}"),
    (rb".{510}\x55\xaa.{2}HdrS|.{56}(?:ARM\x64|RSC\x05)|MZ..zimg", f"is a Linux kernel and no disk; {_KERNEL}"),
    (rb"0707(?:01|02|07)[0-9A-Fa-f]{6}", "is a cpio archive; an initial RAM disk is given by --vm-initrd={}"),
)
_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?[^\0-\x08\x0e-\x1a\x1c-\x1f\x7f]+")


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
    return _why_packed(data, path) or why_no_content_of_a_disk(data, size, str(path))


def why_no_content_of_a_disk(data: bytes, size: int, name: str) -> str | None:
    """The same of what is not packed and begins so; `name` is that of its file, for commands."""
    if size == 0:
        return "is empty; did its download come to an end?"
    if is_description_of_vmdk(data):
        return None
    if found := _program(data, shlex.quote(name)) or _text(data, size):
        return found
    return (
        f"has {count(size, 'byte')}, less than one sector of a disk; is it the right file?" if size < _SECTOR else None
    )


def _why_packed(data: bytes, path: Path) -> str | None:
    name = shlex.quote(str(path))
    match packing_of(data):
        case Archive() as archive:
            return f"is {archive.kind}; give the image that is in it, after: {archive.command.format(name)}"
        case Stream(tool=tool, suffix=suffix) as stream:
            if path.name.endswith(f".tar{suffix}") or is_tar(beginning(stream, data, _SECTOR)):
                return f"is a tar archive, packed by {tool}; give the image that is in it, after: tar xf {name}"
            after = f"-dk {name}"
            if not path.name.endswith(suffix):
                after = f"-dc < {name} > {shlex.quote(f'{path.stem}.img')}"
            return f"is packed by {tool}; give what is in it, after: {tool} {after}"
    return None


def _program(data: bytes, name: str) -> str | None:
    for begins, sentence in _PROGRAMS:
        if re.match(begins, data, re.DOTALL):
            return sentence.format(name)
    if data[510:512] == b"\x55\xaa":
        return None  # a boot sector: what else it may be, it boots
    header = int.from_bytes(data[60:64], "little")
    if data.startswith(b"MZ") and data[header : header + 4] == b"PE\0\0":
        return f"is a program for EFI or Windows and no disk; {_KERNEL.format(name)}"
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
