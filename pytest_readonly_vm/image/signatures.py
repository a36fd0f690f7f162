"""Owns how packed files begin: streams, tar and other archives, each with the program that unpacks it. Pure.

A disk may hold anything, so only what no disk begins with is here. It is said in the formats' own descriptions.
"""

import re
import tarfile
from dataclasses import dataclass

HEAD = 33 << 10
"""Bytes from the start of a file in which all that tells its kind is: the mark of a CD is at 32769."""

_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Stream:
    """One file, packed: how it begins, the program that unpacks it, and the end of a name that this one expects."""

    begins: bytes
    tool: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Archive:
    """Several files in one: how it begins, what it is, and a command that unpacks it."""

    begins: bytes
    kind: str
    command: str


_STREAMS = (
    Stream(rb"\x1f\x8b\x08", "gzip", ".gz"),
    Stream(rb"\xfd7zXZ\0", "xz", ".xz"),
    Stream(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "bzip2", ".bz2"),
    Stream(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd", ".zst"),
    Stream(rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18", "lz4", ".lz4"),
    Stream(rb"\x89LZO\0\r\n\x1a\n", "lzop", ".lzo"),
    Stream(rb"LZIP[\0\x01]", "lzip", ".lz"),
    # Properties, the size of a dictionary, that of the content or -1, and a byte that is always zero.
    Stream(rb"\x5d\0\0(?:[\x01-\xff]\0|\0[\x01-\x08])(?:\xff{8}|.{5}\0{3})\0", "lzma", ".lzma"),
    Stream(rb"\x1f\x9d[\x09-\x10\x89-\x90]", "gzip", ".Z"),
)
ZIP = Archive(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a zip archive", "unzip {}")
TAR = Archive(rb"", "a tar archive", "tar xf {}")  # told by the checksum of its first member
_ARCHIVES = (
    ZIP,
    Archive(rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {}"),
    Archive(rb"Rar!\x1a\x07", "a RAR archive", "unrar x {}"),
    Archive(rb"MSCF\0{4}", "a cabinet archive", "7z x {}"),
    Archive(rb"xar!\0\x1c", "a xar archive", "7z x {}"),
    Archive(rb"!<arch>\ndebian-binary", "a Debian package", "dpkg-deb -x {} FOLDER"),
    Archive(rb"!<arch>\n", "an ar archive", "ar x {}"),
    Archive(rb"\xed\xab\xee\xdb", "an RPM package", "rpm2cpio {} | cpio -idm"),
)


def packing_of(head: bytes) -> Stream | Archive | None:
    """How a file is packed that begins so; None if it is not."""
    for kind in (*_STREAMS, *_ARCHIVES):
        if re.match(kind.begins, head, re.DOTALL):
            return kind
    return TAR if is_tar(head) else None


def is_tar(head: bytes) -> bool:
    """By the checksum of its first member, which tars without any other mark have too."""
    try:
        return bool(tarfile.TarInfo.frombuf(head[:_SECTOR], "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


def is_cd(head: bytes) -> bool:
    """Whether it is the image of a CD or DVD, by ECMA-119 and ECMA-167; those that boot as disks too are CDs."""
    return head[32769:32774] in (b"CD001", b"BEA01")
