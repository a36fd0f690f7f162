"""Owns the question what a machine has changed of its files since a frozen moment, and its two ways to an answer.

From outside: what lies in the parts of the disk that were written since, read while the guest stands still. From
inside, where the file system or the disk is not one that is read here: what the guest lists, and what a copy of the
frozen guest had listed.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pytest_readonly_vm.errors import ChannelError, GuestDied, GuestPaused, VmError, WaitTimeout
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.guest.listing import Listed, Listing, digests, listing
from pytest_readonly_vm.guest.mounts import Mount, synced_mounts
from pytest_readonly_vm.image.ext4 import Ext4, Inode, making_sense
from pytest_readonly_vm.image.ext4_tree import Difference, FileTree, written
from pytest_readonly_vm.image.qcow2 import Unreadable
from pytest_readonly_vm.machine.baseline import Baseline
from pytest_readonly_vm.machine.changes import Aspect, Change, Changes, Content, state
from pytest_readonly_vm.machine.disk_view import DiskView, open_written, standing_still

_KIND, _FILE, _LINK, _DIRECTORY, _NODES = 0o170000, 0o100000, 0o120000, 0o040000, (0o020000, 0o060000)
_MOST_BEFORE, _MOST_AFTER, _MOST_AFTER_IN_ALL = 64 << 20, 1 << 20, 32 << 20


def changes(guest: Guest, baseline: Baseline) -> Changes:
    """What the files of a machine are that they were not.

    :raises VmError: that cannot be found out; the message says why.
    """
    baseline.check_is_open()
    mounts, remark = _synced(guest)
    found: list[Change] = []
    looked_at: dict[str, str] = {}
    hidden = [mount.path for mount in (baseline.mounts if mounts is None else mounts) if mount.path != b"/"]
    unread = ""
    if baseline.trees:
        try:
            for place, seen in _from_outside(guest, baseline):
                looked_at[os.fsdecode(place)] = "outside"
                found += [change for path, change in seen if not _is_hidden(path, place, hidden)]
        except Unreadable as error:
            found.clear()
            looked_at.clear()
            unread = str(error)
    for place in (mount.path for mount in baseline.mounts):
        if os.fsdecode(place) in looked_at:
            continue
        if mounts is None:
            why = f" ({unread})" if unread else ""
            raise VmError(
                f"{guest.name}: what has changed at {os.fsdecode(place)} only the guest can tell{why}, but {remark}"
            )
        if place not in baseline.listings:
            with baseline.copy() as copy:
                baseline.listings[place] = listing(copy, place)
        looked_at[os.fsdecode(place)] = "inside"
        differences = _from_inside(guest, baseline, place, baseline.listings[place])
        found += [change for path, change in differences if not _is_hidden(path, place, hidden)]
    return Changes(found, looked_at=looked_at, remark=remark)


def _synced(guest: Guest) -> tuple[list[Mount] | None, str]:
    """What is mounted, once all is written; None, and why, of a guest that cannot be asked."""
    try:
        return synced_mounts(guest), ""
    except (ChannelError, GuestDied, GuestPaused, WaitTimeout) as error:
        if guest.instance.process.returncode is not None:
            raise
        told = str(error).partition("\n")[0]
        return None, f"the guest could not be asked to write what it had in memory, as after a loss of power: {told}"


def _is_hidden(path: bytes, place: bytes, mounted: list[bytes]) -> bool:
    """Whether something else is mounted there, so that nobody in the guest sees it."""
    return any((path == other or path.startswith(other + b"/")) and len(other) > len(place) for other in mounted)


Found = tuple[bytes, Change]


def _from_outside(guest: Guest, baseline: Baseline) -> list[tuple[bytes, list[Found]]]:
    """By the place where it is mounted, what is different on each file system that can be read from outside."""
    was = baseline.disk
    assert was is not None
    instance = guest.instance
    context = standing_still(instance)
    with contextlib.ExitStack() as opened:
        guest.loop.run(context.__aenter__())
        opened.callback(lambda: guest.loop.run(context.__aexit__(None, None, None)))
        descriptor = open_written(instance)
        opened.callback(os.close, descriptor)
        now = DiskView.of(descriptor, (*instance.frozen_overlays, *instance.spec.chain))
        parts = {part for one in (*now.above(was), *was.above(now)) for part in written(one)}
        look = _Outside(baseline, now, parts)
        with making_sense():
            return [(place, list(look.changes(place, tree))) for place, tree in baseline.trees.items()]


@dataclass(slots=True)
class _Outside:
    baseline: Baseline
    now: DiskView
    parts: set[int]
    kept: int = field(default=0)
    """Bytes of content that were read to be kept."""

    def changes(self, place: bytes, tree: FileTree) -> Iterator[Found]:
        system = Ext4(self.now.content, tree.system.offset)
        for one in tree.differences(system, self.parts):
            path = place.rstrip(b"/") + one.path
            if (change := self._change(path, one, tree.system, system)) is not None:
                yield path, change

    def _change(self, path: bytes, one: Difference, was: Ext4, now: Ext4) -> Change | None:
        before, after = one.before, one.after
        return _told(
            path,
            before,
            after,
            lambda old, new: list(_aspects(old, new, was, now)),
            self._reader_before(was, before) if before is not None else None,
            self._reader_after(now, after) if after is not None else None,
        )

    def _reader_before(self, system: Ext4, inode: Inode) -> Content | None:
        if not _has_content(inode.mode):
            return None

        def read() -> bytes:
            self.baseline.check_is_open()
            return _content(system, inode, _MOST_BEFORE)

        return read

    def _reader_after(self, system: Ext4, inode: Inode) -> Content | None:
        if not _has_content(inode.mode):
            return None
        size = inode.size
        if size > _MOST_AFTER or self.kept + size > _MOST_AFTER_IN_ALL:
            return _refusing(
                f"it has {size} bytes, and at most {_MOST_AFTER} of a file and {_MOST_AFTER_IN_ALL} in all "
                "are kept of what is afterwards; read it in the guest"
            )
        self.kept += size
        content = _content(system, inode, _MOST_AFTER)
        return lambda: content


def _refusing(why: str) -> Content:
    def read() -> bytes:
        raise VmError(why)

    return read


def _has_content(mode: int) -> bool:
    return mode & _KIND in (_FILE, _LINK)


def _content(system: Ext4, inode: Inode, most: int) -> bytes:
    if inode.mode & _KIND == _LINK:
        return system.target(inode)
    if inode.size > most:
        raise VmError(f"it has {inode.size} bytes, and at most {most} are read")
    content = bytearray(inode.size)
    for at, part in system.chunks(inode, system.extents(inode)[0]):
        content[at : at + len(part)] = part
    return bytes(content[: inode.size])


def _told(
    path: bytes,
    before: Inode | Listed | None,
    after: Inode | Listed | None,
    aspects: Callable[..., list[Aspect]],
    read_before: Content | None,
    read_after: Content | None,
) -> Change | None:
    old = None if before is None else state(before.mode, before.uid, before.gid, before.size, before.links)
    new = None if after is None else state(after.mode, after.uid, after.gid, after.size, after.links)
    name = os.fsdecode(path)
    if before is None or after is None:
        return Change(name, "made" if before is None else "removed", (), old, new, read_before, read_after)
    what = tuple(aspects(before, after))
    if not what and (before.mode & _KIND == _DIRECTORY or _moment(before) == _moment(after)):
        return None  # where its content is on the disk, the system decides when it writes that there
    return Change(name, "changed" if what else "touched", what, old, new, read_before, read_after)


def _moment(one: Inode | Listed) -> tuple[object, ...]:
    """What is another one when a file has been written or replaced."""
    return (one.number, one.generation, one.times) if isinstance(one, Inode) else (one.inode, one.changed)


def _common(old: Inode | Listed, new: Inode | Listed) -> Iterator[Aspect]:
    if old.mode & 0o7777 != new.mode & 0o7777 and old.mode & _KIND != _LINK:
        yield "mode"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield "owner"
    if old.links != new.links and old.mode & _KIND == new.mode & _KIND != _DIRECTORY:
        yield "links"


def _aspects(old: Inode, new: Inode, was: Ext4, now: Ext4) -> Iterator[Aspect]:
    kind = new.mode & _KIND
    if old.mode & _KIND != kind:
        yield "type"
    elif kind == _FILE and not _is_same_content(old, new, was, now):
        yield "content"
    elif kind == _LINK and was.target(old) != now.target(new):
        yield "target"
    elif kind in _NODES and old.device != new.device:
        yield "device"
    yield from _common(old, new)
    if was.attributes(old) != now.attributes(new):
        yield "attributes"


def _is_same_content(old: Inode, new: Inode, was: Ext4, now: Ext4) -> bool:
    if old.size != new.size:
        return False
    first, second = was.extents(old)[0], now.extents(new)[0]
    return all(one == other for one, other in _side_by_side(was.chunks(old, first), now.chunks(new, second)))


def _side_by_side(
    one: Iterator[tuple[int, bytes]], other: Iterator[tuple[int, bytes]]
) -> Iterator[tuple[bytes, bytes]]:
    """Of two files the same parts, where at least one has something; holes are zeros."""
    first, second = next(one, None), next(other, None)
    while first is not None or second is not None:
        if second is None or (first is not None and first[0] + len(first[1]) <= second[0]):
            assert first is not None
            yield first[1], bytes(len(first[1]))
            first = next(one, None)
        elif first is None or second[0] + len(second[1]) <= first[0]:
            yield bytes(len(second[1])), second[1]
            second = next(other, None)
        else:
            start = min(first[0], second[0])
            common = max(first[0], second[0])
            for at, part in (first, second):
                if at == start < common:
                    yield part[: common - start], bytes(common - start)
            end = min(first[0] + len(first[1]), second[0] + len(second[1]))
            yield first[1][common - first[0] : end - first[0]], second[1][common - second[0] : end - second[0]]
            first = _rest(first, end) or next(one, None)
            second = _rest(second, end) or next(other, None)


def _rest(chunk: tuple[int, bytes], start: int) -> tuple[int, bytes] | None:
    at, content = chunk
    return (start, content[start - at :]) if at + len(content) > start else None


# From inside.


def _from_inside(guest: Guest, baseline: Baseline, place: bytes, was: Listing) -> Iterator[Found]:
    now = listing(guest, place)
    candidates = [
        path
        for path, old in was.items()
        if (new := now.get(path)) is not None
        and (old.inode, old.changed) != (new.inode, new.changed)
        and old.mode & _KIND == new.mode & _KIND != _DIRECTORY
    ]
    to_read = [path for path in candidates if was[path].mode & _KIND != _FILE or was[path].size == now[path].size]
    another: set[bytes] = set()
    if to_read:
        with baseline.copy() as copy:
            before = digests(copy, to_read)
        after = digests(guest, to_read)
        another = {path for path, one, other in zip(to_read, before, after, strict=True) if one != other}

    def aspects(path: bytes) -> Callable[[Listed, Listed], list[Aspect]]:
        def found(old: Listed, new: Listed) -> list[Aspect]:
            kind = new.mode & _KIND
            if old.mode & _KIND != kind:
                return ["type", *_common(old, new)]
            first: list[Aspect] = []
            if path in another or (kind == _FILE and old.size != new.size):
                first = ["content" if kind == _FILE else "target" if kind == _LINK else "device"]
            return [*first, *_common(old, new)]

        return found

    for path in {**was, **now}:
        old, new = was.get(path), now.get(path)
        if old is not None and new is not None and (old.inode, old.changed) == (new.inode, new.changed):
            continue
        read_before = _reading_copy(baseline, path, old) if old is not None else None
        read_after = _reading(guest, path, new) if new is not None else None
        if (change := _told(path, old, new, aspects(path), read_before, read_after)) is not None:
            yield path, change


def _reading_copy(baseline: Baseline, path: bytes, one: Listed) -> Content | None:
    def read() -> bytes:
        baseline.check_is_open()
        with baseline.copy() as copy:
            return _read(copy, path, one, _MOST_BEFORE)

    return read if _has_content(one.mode) else None


def _reading(guest: Guest, path: bytes, one: Listed) -> Content | None:
    return (lambda: _read(guest, path, one, _MOST_AFTER)) if _has_content(one.mode) else None


def _read(guest: Guest, path: bytes, one: Listed, most: int) -> bytes:
    if one.mode & _KIND == _LINK:
        return guest.run(["readlink", os.fsdecode(path)]).stdout_bytes.removesuffix(b"\n")
    if one.size > most:
        raise VmError(f"it has {one.size} bytes, and at most {most} are read")
    return guest.read_bytes(os.fsdecode(path))
