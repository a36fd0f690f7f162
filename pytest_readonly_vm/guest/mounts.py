"""Owns what a Linux guest has mounted, by its own word, and that what it has in memory is written to its disks."""

import re
import struct
from dataclasses import dataclass

from pytest_readonly_vm.guest.guest import Guest

EXT = ("ext4", "ext3", "ext2")
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_ON_DISK = re.compile(
    r"ext[234]|xfs|btrfs|vfat|msdos|exfat|ntfs3?|f2fs|jfs|reiserfs|nilfs2|bcachefs|udf|hfsplus|minix|fuseblk|zfs"
)
_SYNCED_MOUNTS = "sync; exec cat /proc/self/mountinfo"
# Of each device its superblock: the name in mountinfo may be one that is not there, such as /dev/root.
_SUPERBLOCKS = """\
for number; do
    name=$(sed -n 's/^DEVNAME=//p' "/sys/dev/block/$number/uevent")
    echo "$number $(dd if="/dev/$name" bs=1024 skip=1 count=1 2>/dev/null | od -An -v -tx1 -j104 -N16 | tr -d ' ')"
done
"""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system, where it is mounted."""

    path: bytes
    device: str
    """Its number, as ``254:1``."""
    root: bytes
    """Which folder of the file system it is."""
    kind: str
    """``ext4``, ``tmpfs``…"""

    @property
    def is_looked_at(self) -> bool:
        """Whether it is on a disk, or what everything else is mounted below."""
        return self.path == b"/" or bool(_ON_DISK.fullmatch(self.kind))


def synced_mounts(guest: Guest, *, timeout: float = 60.0) -> list[Mount]:
    """What is mounted, the topmost of what is mounted at one place, once all is written to the disks.

    :param timeout: seconds that it may take, on a computer that runs guests by itself.
    :raises VmError: the guest cannot be asked.
    """
    patience = timeout * guest.instance.spec.slowness
    return mounts(guest.ask(_SYNCED_MOUNTS, timeout=patience).stdout_bytes)


def mounts(table: bytes) -> list[Mount]:
    """What /proc/self/mountinfo says; without one, as of no Linux, that there is a root."""
    found: dict[bytes, Mount] = {}
    for line in table.splitlines():
        words = line.split(b" ")
        if b"-" not in words[6:] or len(words) < 10:
            continue
        kind = words[words.index(b"-", 6) + 1].decode(errors="replace")
        path, root = _plain(words[4]), _plain(words[3])
        found[path] = Mount(path, words[2].decode(errors="replace"), root, kind)
    return list(found.values()) or [Mount(b"/", "", b"/", "")]


def identities(guest: Guest, devices: list[str]) -> dict[str, bytes]:
    """Of devices with a file system of ext4's kind, by their numbers, the UUID that it has."""
    if not devices:
        return {}
    told = guest.ask(["sh", "-c", _SUPERBLOCKS, "sh", *devices]).stdout
    found = {}
    for line in told.splitlines():
        number, _, digits = line.partition(" ")
        if re.fullmatch("[0-9a-f]{32}", digits):
            found[number] = bytes.fromhex(digits)
    return found


def _plain(word: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: struct.pack("B", int(found[1], 8) & 0xFF), word)
