"""Owns the names of an ext4 file system, and which of them are something else at another moment of the same one.

All names are read once; of the other moment only what lies in parts of the disk that were written since.
"""

from collections.abc import Iterator, Set
from typing import NamedTuple

from pytest_readonly_vm.image.ext4 import MOST_NAMES, ROOT, Ext4
from pytest_readonly_vm.image.ext4_inode import Inode
from pytest_readonly_vm.image.qcow2 import Qcow2Layer, Unreadable

_UNIT = 16
"""Of a place on the disk in bytes, the bits that do not count: parts are as large as QEMU's clusters are."""
_DIRECTORY, _KIND = 0o040000, 0o170000

Names = dict[bytes, int]


class Difference(NamedTuple):
    """A name that is not what it was; None where it is not there."""

    path: bytes
    """Absolute, as from the root of the file system."""
    before: Inode | None
    after: Inode | None


def written(layer: Qcow2Layer) -> set[int]:
    """The parts of a disk that a file above the others has."""
    return {
        part for offset, size in layer.allocated() for part in range(offset >> _UNIT, (offset + size - 1 >> _UNIT) + 1)
    }


class FileTree:
    """All names of a file system, at the moment to compare with."""

    def __init__(self, system: Ext4) -> None:
        """:raises Unreadable: it is damaged, or there are more names than two millions."""
        self.system = system
        self.inodes: dict[int, Inode] = {}
        self.names: dict[int, Names] = {}
        self.directories: dict[int, int] = {}
        """By a block the directory whose names, or whose place, are written there."""
        self._read_all()

    def _read_all(self) -> None:
        tables = _Tables(self.system)
        self.inodes[ROOT] = tables.inode(ROOT)
        waiting, count = [ROOT], 0
        while waiting:
            directory = waiting.pop()
            if directory in self.names:
                raise Unreadable("a directory is in two places: the file system is damaged")
            inode = self.inodes[directory]
            extents, nodes = self.system.extents(inode)
            names = self.names[directory] = self.system.names(inode, extents)
            blocks = [*nodes, *(block for one in extents for block in range(one.place, one.place + one.length))]
            self.directories |= dict.fromkeys(blocks, directory)
            count += len(names)
            if count > MOST_NAMES:
                raise Unreadable(f"there are more than {MOST_NAMES} names")
            for number in names.values():
                if number not in self.inodes:
                    self.inodes[number] = tables.inode(number)
                if _is_directory(self.inodes[number]):
                    waiting.append(number)

    def differences(self, now: Ext4, parts: Set[int]) -> Iterator[Difference]:
        """The names that are something else at another moment, but for when something was read.

        :param now: the same file system then.
        :param parts: those of the disk that may be different.
        :raises Unreadable: it is damaged, or another one.
        """
        return _Comparison(self, now, parts).walk()


class _Tables:
    """Inodes by their number, of which the tables are read in larger pieces."""

    _AT_ONCE = 16

    def __init__(self, system: Ext4) -> None:
        self._system = system
        self._starts = dict(system.tables())
        self._first = list(self._starts)
        self._step = self._first[1] - 1 if len(self._first) > 1 else system.inode_count
        self._pieces: dict[tuple[int, int], bytes] = {}

    def inode(self, number: int) -> Inode:
        system = self._system
        if not 0 < number <= system.inode_count:
            raise Unreadable("a directory names an inode that is not there: the file system is damaged")
        group, within = divmod(number - 1, self._step)
        size = self._AT_ONCE * system.block_size
        piece, at = divmod(within * system.inode_size, size)
        if (read := self._pieces.get((group, piece))) is None:
            block = piece * self._AT_ONCE
            count = min(self._AT_ONCE, system.table_blocks - block)
            read = system.blocks(self._starts[self._first[group]] + block, count)
            self._pieces[group, piece] = read
        return Inode(number, read[at : at + system.inode_size])


class _Comparison:
    def __init__(self, before: FileTree, now: Ext4, parts: Set[int]) -> None:
        was = before.system
        if (was.uuid, was.block_size, was.inode_size, was.inode_count) != (
            now.uuid,
            now.block_size,
            now.inode_size,
            now.inode_count,
        ) or was.offset != now.offset:
            raise Unreadable("it is another file system than before")
        self._before, self._now = before, now
        self._parts = set(parts)
        for block in (*was.replayed, *now.replayed):
            self._parts.update(self._parts_of(block, 1))
        self._changed = self._changed_inodes()
        self._tables = _Tables(now)
        self._names = {
            directory: None for block, directory in before.directories.items() if self._is_touched(block)
        }  # to be read again

    def _parts_of(self, block: int, count: int) -> range:
        size = self._now.block_size
        start = self._now.offset + block * size
        return range(start >> _UNIT, (start + count * size - 1 >> _UNIT) + 1)

    def _is_touched(self, block: int) -> bool:
        return any(part in self._parts for part in self._parts_of(block, 1))

    def _changed_inodes(self) -> dict[int, Inode]:
        was, now, size = self._before.system, self._now, self._now.inode_size
        at_once = max((1 << _UNIT) // now.block_size, 1)
        changed = {}
        if list(was.tables()) != list(now.tables()):
            raise Unreadable("it has been laid out anew")
        for first, table in now.tables():
            if not any(part in self._parts for part in self._parts_of(table, now.table_blocks)):
                continue
            for skipped in range(0, now.table_blocks, at_once):
                count = min(at_once, now.table_blocks - skipped)
                if not any(part in self._parts for part in self._parts_of(table + skipped, count)):
                    continue
                old, new = was.blocks(table + skipped, count), now.blocks(table + skipped, count)
                if old == new:
                    continue
                number = first + skipped * now.block_size // size
                for at in range(0, len(new), size):
                    if old[at : at + size] != new[at : at + size]:
                        inode = Inode(number + at // size, new[at : at + size])
                        if inode.but_for_access() != Inode(0, old[at : at + size]).but_for_access():
                            changed[inode.number] = inode
        return changed

    def _inode(self, number: int) -> Inode:
        """As it is now."""
        if (found := self._changed.get(number)) is None and (found := self._before.inodes.get(number)) is None:
            found = self._tables.inode(number)
        return found

    def _names_now(self, directory: int) -> Names:
        is_known = directory not in self._names and directory not in self._changed
        if is_known and (known := self._before.names.get(directory)) is not None:
            return known
        inode = self._inode(directory)
        return self._now.names(inode, self._now.extents(inode)[0])

    def walk(self) -> Iterator[Difference]:
        changed, inodes, names_before = self._changed, self._before.inodes, self._before.names
        waiting: list[tuple[bytes, int | None, int | None]] = [(b"", ROOT, ROOT)]
        seen: set[int] = set()
        count = 0
        if ROOT in changed:
            yield Difference(b"/", inodes[ROOT], changed[ROOT])
        while waiting:
            path, was, now = waiting.pop()
            if now is not None:
                if now in seen:
                    raise Unreadable("a directory is in two places: the file system is damaged")
                seen.add(now)
            old = {} if was is None else names_before[was]
            new = {} if now is None else self._names_now(now)
            count += len(new)
            if count > MOST_NAMES:
                raise Unreadable(f"there are more than {MOST_NAMES} names")
            for name in old if old is new else {**old, **new}:
                first, second = old.get(name), new.get(name)
                if first == second and first is not None and first not in changed:
                    if first in names_before:
                        waiting.append((path + b"/" + name, first, first))
                    continue
                before = inodes[first] if first is not None else None
                after = self._inode(second) if second is not None else None
                where = path + b"/" + name
                yield Difference(where, before, after)
                inner_before = first if before is not None and _is_directory(before) else None
                inner_after = second if after is not None and _is_directory(after) else None
                if inner_before is not None or inner_after is not None:
                    waiting.append((where, inner_before, inner_after))


def _is_directory(inode: Inode) -> bool:
    return inode.mode & _KIND == _DIRECTORY
