"""Owns the cpio archive format "newc", in which Linux takes its initramfs: names and contents to bytes.

The format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources. Owner, time
and inode number are fixed, so the same members give the same bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive."""

    name: str
    """The path without a leading slash."""
    mode: int
    """Type and permissions, as in ``st_mode``."""
    content: bytes = b""
    """What the file holds; a symbolic link's target."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def directory(name: str) -> Member:
    """A directory that everyone may enter."""
    return Member(name, stat.S_IFDIR | 0o755)


def file(name: str, content: bytes, *, mode: int = 0o644) -> Member:
    """A regular file."""
    return Member(name, stat.S_IFREG | mode, content)


def symlink(name: str, target: str) -> Member:
    """A symbolic link."""
    return Member(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int) -> Member:
    """A character device node."""
    return Member(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(members: Iterable[Member]) -> bytes:
    """The archive of `members` in the order given; a directory must come before what is in it."""
    result = bytearray()
    for inode, member in enumerate([*members, Member("TRAILER!!!", 0)], start=1):
        name = member.name.encode() + b"\0"
        fields = (
            inode,
            member.mode,
            0,  # user
            0,  # group
            2 if stat.S_ISDIR(member.mode) else 1,  # links
            0,  # time of modification
            len(member.content),
            0,  # major and minor of the device that holds the file
            0,
            *member.device,
            len(name),
            0,  # check sum, unused in this variant
        )
        result += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        _pad(result)
        result += member.content
        _pad(result)
    return bytes(result)


def _pad(result: bytearray) -> None:
    result += bytes(-len(result) % 4)
