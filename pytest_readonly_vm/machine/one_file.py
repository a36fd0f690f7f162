"""Owns what is told of one file, by what it was and what it is, in whichever way these were found out."""

import os
from collections.abc import Callable, Iterator

from pytest_readonly_vm.guest.listing import Listed
from pytest_readonly_vm.image.ext4_inode import Inode
from pytest_readonly_vm.machine.changes import Aspect, Change, Content, state

KIND, FILE, LINK, DIRECTORY, NODES = 0o170000, 0o100000, 0o120000, 0o040000, (0o020000, 0o060000)
"""Of a mode the bits that say of what kind a file is, and kinds."""

MOST_BEFORE, MOST_AFTER, MOST_AFTER_IN_ALL = 64 << 20, 1 << 20, 32 << 20
"""Bytes of content: that are read of one file, that are kept of one, and of all."""


def told(
    path: bytes,
    before: Inode | Listed | None,
    after: Inode | Listed | None,
    aspects: Callable[..., list[Aspect]],
    read_before: Content | None,
    read_after: Content | None,
) -> Change | None:
    """What has become of a file that is not surely what it was; None if it is.

    :param aspects: what is different, of what was and what is.
    """
    old = None if before is None else state(before.mode, before.uid, before.gid, before.size, before.links)
    new = None if after is None else state(after.mode, after.uid, after.gid, after.size, after.links)
    name = os.fsdecode(path)
    if before is None or after is None:
        return Change(name, "made" if before is None else "removed", (), old, new, read_before, read_after)
    what = tuple(aspects(before, after))
    if not what and (before.mode & KIND == DIRECTORY or before.moment == after.moment):
        return None  # where its content is on the disk, the system decides when it writes that there
    return Change(name, "changed" if what else "touched", what, old, new, read_before, read_after)


def common_aspects(old: Inode | Listed, new: Inode | Listed) -> Iterator[Aspect]:
    """What is different of that which every way of looking sees."""
    if old.mode & 0o7777 != new.mode & 0o7777 and old.mode & KIND != LINK:
        yield "mode"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield "owner"
    if old.links != new.links and old.mode & KIND == new.mode & KIND != DIRECTORY:
        yield "links"


def has_content(mode: int) -> bool:
    """Whether there is something in such a file, or it points to something."""
    return mode & KIND in (FILE, LINK)
