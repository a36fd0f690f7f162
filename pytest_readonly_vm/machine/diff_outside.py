"""Owns what is seen from outside of what a machine has changed of its files: on its disks, while it stands still."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.image.ext4 import Ext4, making_sense
from pytest_readonly_vm.image.ext4_inode import Inode
from pytest_readonly_vm.image.ext4_tree import Difference, FileTree, written
from pytest_readonly_vm.image.qcow2 import Unreadable
from pytest_readonly_vm.machine.baseline import Baseline
from pytest_readonly_vm.machine.changes import Aspect, Change, Content
from pytest_readonly_vm.machine.disk_view import DiskView, open_written, standing_still
from pytest_readonly_vm.machine.one_file import (
    FILE,
    KIND,
    LINK,
    MOST_AFTER,
    MOST_AFTER_IN_ALL,
    MOST_BEFORE,
    NODES,
    common_aspects,
    has_content,
    told,
)

Found = tuple[bytes, Change]


def changes_from_outside(guest: Guest, baseline: Baseline) -> list[tuple[bytes, list[Found]]]:
    """By the place where it is mounted, what is different on each file system that can be read from outside."""
    instance = guest.instance
    attached = {disk.name: disk for disk in instance.disks}
    found = []
    context = standing_still(instance)
    with contextlib.ExitStack() as opened, making_sense():
        guest.loop.run(context.__aenter__())
        opened.callback(lambda: guest.loop.run(context.__aexit__(None, None, None)))
        looks: dict[str, _Outside] = {}
        for place, (name, tree) in baseline.trees.items():
            if name not in attached:
                raise Unreadable(f"the disk {name} is not there any more")
            if name not in looks:
                disk, was = attached[name], baseline.disks[name]
                opened.callback(os.close, descriptor := guest.loop.run(open_written(instance, disk)))
                now = DiskView.of(descriptor, (*disk.frozen_overlays, *disk.files))
                parts = {part for one in (*now.above(was), *was.above(now)) for part in written(one)}
                looks[name] = _Outside(baseline, now, parts)
            found.append((place, list(looks[name].changes(place, tree))))
    return found


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
            path = (place.rstrip(b"/") + one.path).rstrip(b"/") or b"/"
            if (change := self._change(path, one, tree.system, system)) is not None:
                yield path, change

    def _change(self, path: bytes, one: Difference, was: Ext4, now: Ext4) -> Change | None:
        before, after = one.before, one.after
        return told(
            path,
            before,
            after,
            lambda old, new: list(_aspects(old, new, was, now)),
            self._reader_before(was, before) if before is not None else None,
            self._reader_after(now, after) if after is not None else None,
        )

    def _reader_before(self, system: Ext4, inode: Inode) -> Content | None:
        if not has_content(inode.mode):
            return None

        def read() -> bytes:
            self.baseline.check_is_open()
            return _content(system, inode, MOST_BEFORE)

        return read

    def _reader_after(self, system: Ext4, inode: Inode) -> Content | None:
        if not has_content(inode.mode):
            return None
        size = inode.size
        if size > MOST_AFTER or self.kept + size > MOST_AFTER_IN_ALL:
            return _refusing(
                f"it has {size} bytes, and at most {MOST_AFTER} of a file and {MOST_AFTER_IN_ALL} in all "
                "are kept of what is afterwards; read it in the guest"
            )
        self.kept += size
        content = _content(system, inode, MOST_AFTER)
        return lambda: content


def _refusing(why: str) -> Content:
    def read() -> bytes:
        raise VmError(why)

    return read


def _content(system: Ext4, inode: Inode, most: int) -> bytes:
    if inode.mode & KIND == LINK:
        return system.target(inode)
    if inode.size > most:
        raise VmError(f"it has {inode.size} bytes, and at most {most} are read")
    content = bytearray(inode.size)
    for at, part in system.chunks(inode, system.extents(inode)[0]):
        content[at : at + len(part)] = part
    return bytes(content[: inode.size])


def _aspects(old: Inode, new: Inode, was: Ext4, now: Ext4) -> Iterator[Aspect]:
    kind = new.mode & KIND
    if old.mode & KIND != kind:
        yield "type"
    elif kind == FILE and not _is_same_content(old, new, was, now):
        yield "content"
    elif kind == LINK and was.target(old) != now.target(new):
        yield "target"
    elif kind in NODES and old.device != new.device:
        yield "device"
    yield from common_aspects(old, new)
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
