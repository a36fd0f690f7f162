"""Owns what is read of an ext4 file system from outside: its inodes, directories and the content of files. Read only.

A guest may have written any bytes: what is followed is bounded by what is read of the disk in all, each directory and
each block of an extent tree is looked at once. ext2 and ext3 are read as well.
Format: https://docs.kernel.org/filesystems/ext4/
"""

import contextlib
import struct
from collections.abc import Iterator
from functools import cached_property

from pytest_readonly_vm.image.ext4_inode import Extent, Inode
from pytest_readonly_vm.image.ext4_journal import Replayed, content, replayed
from pytest_readonly_vm.image.qcow2 import DiskBytes, Unreadable

ROOT = 2
_JOURNAL = 8
_MAGIC = 0xEF53
_NEEDS_RECOVERY, _META_BG, _64BIT = 0x4, 0x10, 0x80
_READ = 0x2 | _NEEDS_RECOVERY | _META_BG | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000
"""The features without which it cannot be read that are known here, with inline data, and large directories."""
_EXTENTS, _INLINE, _IN_EA_INODE = 0x80000, 0x10000000, 0x200000
_EXTENT_MAGIC, _MOST_LEVELS = 0xF30A, 5
_EA_MAGIC = 0xEA020000
_PREFIXES = {1: b"user.", 2: b"system.posix_acl_access", 3: b"system.posix_acl_default", 4: b"trusted."}
_PREFIXES |= {6: b"security.", 7: b"system.", 8: b"system.richacl"}
_AT_ONCE = 1 << 20
MOST_NAMES = 1 << 21
_WEIGHT = 16
"""What a byte of tables and directories costs, of which objects are made, if one of content costs 1."""


class Ext4:
    """One file system, at a place of a disk, at a moment when nobody writes it."""

    inode_count: int
    inode_size: int
    block_size: int
    block_count: int
    _first: int
    _per_group: int
    _per_table: int
    _descriptor_size: int

    def __init__(self, disk: DiskBytes, start: int) -> None:
        """:raises Unreadable: there is none, or one with features that are not known here, or it is damaged."""
        self._disk, self._start = disk, start
        head = disk.read(start + 1024, 1024)
        if struct.unpack_from("<H", head, 56)[0] != _MAGIC:
            raise Unreadable("it is no ext4 file system")
        self._head = head
        self.inode_count, blocks, self._first, scale, self._per_group, self._per_table = struct.unpack_from(
            "<II12xII4xI4xI", head
        )
        self.inode_size, compatible, incompatible = struct.unpack_from("<H2xII", head, 88)
        if unknown := incompatible & ~_READ:
            raise Unreadable(f"it is an ext4 file system with features that are not read here (0x{unknown:x})")
        self._descriptor_size = struct.unpack_from("<H", head, 254)[0] if incompatible & _64BIT else 32
        if struct.unpack_from("<I", head, 76)[0] == 0:
            self.inode_size = 128
        sound = scale <= 6 and 128 <= self.inode_size <= 1024 << scale and 32 <= self._descriptor_size <= 1024
        if not sound or not self._per_group or not 0 < self._per_table <= 1 << 20 or self.inode_size % 4:
            raise _damaged("its superblock")
        self.block_size = 1024 << scale
        self.block_count = blocks | (struct.unpack_from("<I", head, 0x150)[0] << 32 if incompatible & _64BIT else 0)
        self.uuid = head[104:120]
        self.replayed: Replayed = {}
        if incompatible & _NEEDS_RECOVERY and compatible & 0x4 and head[0xE0:0xE4] == struct.pack("<I", _JOURNAL):
            journal = self._blocks_in_order(self.inode(_JOURNAL))
            self.replayed = replayed(journal, lambda number: self.blocks(number, 1))
            self.__dict__.pop("_tables", None)  # descriptors may be in the journal as well

    @property
    def offset(self) -> int:
        """Where it is on the disk, in bytes."""
        return self._start

    def blocks(self, number: int, count: int, *, weight: int = _WEIGHT) -> bytes:
        """Blocks one after another, as they are once the journal is replayed."""
        if not 0 <= number <= number + count <= self.block_count:
            raise _damaged("it points beyond its end, and")
        read = self._disk.read(self._start + number * self.block_size, count * self.block_size, weight=weight)
        if not self.replayed or not any(one in self.replayed for one in range(number, number + count)):
            return read
        parts = []
        for one in range(number, number + count):
            at = (one - number) * self.block_size
            if (found := self.replayed.get(one)) is None:
                parts.append(read[at : at + self.block_size])
            else:
                place, is_escaped = found
                parts.append(
                    content(self._disk.read(self._start + place * self.block_size, self.block_size), is_escaped)
                )
        return b"".join(parts)

    @cached_property
    def _tables(self) -> tuple[int, ...]:
        groups: int = -(-self.inode_count // self._per_table)
        size = groups * self._descriptor_size
        if size > 1 << 26:
            raise _damaged("its number of groups")
        packed = b"".join(self.blocks(self._descriptors(one), 1) for one in range(-(-size // self.block_size)))
        wide = self._descriptor_size >= 64
        return tuple(
            int.from_bytes(packed[at + 8 : at + 12] + (packed[at + 40 : at + 44] if wide else b""), "little")
            for at in range(0, size, self._descriptor_size)
        )

    def _descriptors(self, number: int) -> int:
        """Which block has the descriptors that come at that place: all are together, or beside their groups."""
        incompatible, read_only = struct.unpack_from("<II", self._head, 96)
        if not incompatible & _META_BG or number < struct.unpack_from("<I", self._head, 260)[0]:
            return self._first + 1 + number
        group = number * self.block_size // self._descriptor_size
        if struct.unpack_from("<I", self._head, 92)[0] & 0x200:
            has_superblock = group in (0, *struct.unpack_from("<II", self._head, 0x24C))
        else:
            has_superblock = not read_only & 1 or group < 2 or any(_is_power(group, one) for one in (3, 5, 7))
        return self._first + group * self._per_group + int(has_superblock)

    @property
    def table_blocks(self) -> int:
        """How many blocks the table of inodes of one group has."""
        count: int = -(-self._per_table * self.inode_size // self.block_size)
        return count

    def tables(self) -> Iterator[tuple[int, int]]:
        """Of each group the first number of its inodes, and the block at which the table of these begins."""
        for group, block in enumerate(self._tables):
            yield group * self._per_table + 1, block

    def inode(self, number: int) -> Inode:
        """One by its number."""
        group, within = divmod(number - 1, self._per_table)
        if not 0 < number <= self.inode_count:
            raise _damaged("it names an inode that it does not have, and")
        at = within * self.inode_size
        block = self.blocks(self._tables[group] + at // self.block_size, 1)
        at %= self.block_size
        return Inode(number, block[at : at + self.inode_size])

    # Content.

    def extents(self, inode: Inode) -> tuple[list[Extent], list[int]]:
        """Where the blocks of a file are, in order; and the blocks in which that is written."""
        if inode.flags & _INLINE:
            return [], []
        nodes: list[int] = []
        found: list[Extent] = []
        is_tree = inode.flags & _EXTENTS
        left = self.block_count
        for one in self._extents(inode.tree, nodes, _MOST_LEVELS) if is_tree else self._mapped(inode, nodes):
            left -= one.length
            if left < 0 or not one.length:
                raise _damaged("a list of blocks")
            found.append(one)
        return sorted(found), nodes

    def _extents(self, node: bytes, nodes: list[int], levels: int) -> Iterator[Extent]:
        magic, count, _, depth = struct.unpack_from("<4H", node)
        if magic != _EXTENT_MAGIC or levels < 0 or 12 * (count + 1) > len(node):
            raise _damaged("an extent tree")
        for at in range(12, 12 * (count + 1), 12):
            if depth == 0:
                logical, length, high, low = struct.unpack_from("<IHHI", node, at)
                is_written = length <= 0x8000
                yield Extent(logical, length if is_written else length - 0x8000, high << 32 | low, is_written)
            else:
                low, high = struct.unpack_from("<4xIH", node, at)
                nodes.append(high << 32 | low)
                yield from self._extents(self.blocks(nodes[-1], 1), nodes, min(levels, depth) - 1)

    def _mapped(self, inode: Inode, nodes: list[int]) -> Iterator[Extent]:
        """The same of a file without extents, as ext2 and ext3 have them."""
        pointers = struct.unpack("<15I", inode.tree)
        wide = self.block_size // 4
        logical = 0

        def below(block: int, level: int, logical: int) -> Iterator[Extent]:
            if not block:
                return
            if not level:
                yield Extent(logical, 1, block)
                return
            nodes.append(block)
            for number, one in enumerate(struct.unpack(f"<{wide}I", self.blocks(block, 1))):
                yield from below(one, level - 1, logical + number * wide ** (level - 1))

        for number, pointer in enumerate(pointers):
            level = max(number - 11, 0)
            yield from below(pointer, level, logical)
            logical += wide**level

    def _blocks_in_order(self, inode: Inode) -> list[int]:
        found: list[int] = []
        for one in self.extents(inode)[0]:
            found += range(one.place, one.place + one.length)
        return found

    def chunks(self, inode: Inode, extents: list[Extent]) -> Iterator[tuple[int, bytes]]:
        """What is in a file that is not only zeros, as offset and bytes, in order; beyond its size nothing."""
        if inode.flags & _INLINE:
            yield 0, self._inline(inode)[: inode.size]
            return
        step = _AT_ONCE // self.block_size
        for one in extents:
            if not one.is_written:
                continue
            for skipped in range(0, one.length, step):
                at = (one.logical + skipped) * self.block_size
                if at >= inode.size:
                    break
                count = min(step, one.length - skipped, -(-(inode.size - at) // self.block_size))
                yield at, self.blocks(one.place + skipped, count, weight=1)[: inode.size - at]

    def _inline(self, inode: Inode) -> bytes:
        return inode.tree + dict(self._attributes(inode)).get(b"system.data", b"")

    def target(self, inode: Inode) -> bytes:
        """Where a symbolic link points to."""
        if inode.size < 60 and not inode.flags & (_EXTENTS | _INLINE):
            return inode.tree[: inode.size]
        return b"".join(part for _, part in self.chunks(inode, self.extents(inode)[0][:2]))[:4096]

    def names(self, inode: Inode, extents: list[Extent]) -> dict[bytes, int]:
        """The entries of a directory, with the numbers of their inodes, but for ``.`` and ``..``."""
        found: dict[bytes, int] = {}
        if inode.flags & _INLINE:
            self._entries(inode.tree[4:], found)
            self._entries(dict(self._attributes(inode)).get(b"system.data", b""), found)
            return found
        for one in extents:
            for skipped in range(0, one.length, 256):
                packed = self.blocks(one.place + skipped, min(256, one.length - skipped))
                for at in range(0, len(packed), self.block_size):
                    self._entries(packed[at : at + self.block_size], found)
                if len(found) > MOST_NAMES:
                    raise Unreadable(f"a directory has more than {MOST_NAMES} names")
        found.pop(b".", None)
        found.pop(b"..", None)
        return found

    def _entries(self, packed: bytes, found: dict[bytes, int]) -> None:
        at, end = 0, len(packed)
        while at + 8 <= end:
            number, length, size = struct.unpack_from("<IHB", packed, at)
            if length in (0, 0xFFFF) and end == 1 << 16:
                length = 1 << 16
            if length < 8 or at + length > end or size > length - 8:
                raise _damaged("a directory")
            if number and size:
                found[packed[at + 8 : at + 8 + size]] = number
            at += length

    def attributes(self, inode: Inode) -> dict[bytes, bytes]:
        """Extended attributes, by their names."""
        return {name: value for name, value in self._attributes(inode) if name != b"system.data"}

    def _attributes(self, inode: Inode) -> Iterator[tuple[bytes, bytes]]:
        if len(inode.record) > 132:
            at = 128 + struct.unpack_from("<H", inode.record, 128)[0]
            if at + 4 <= len(inode.record) and struct.unpack_from("<I", inode.record, at)[0] == _EA_MAGIC:
                yield from self._named(inode.record[at + 4 :], 0)
        if inode.attribute_block:
            block = self.blocks(inode.attribute_block, 1)
            if struct.unpack_from("<I", block)[0] == _EA_MAGIC:
                yield from self._named(block, 32)

    def _named(self, packed: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
        while at + 16 <= len(packed) and packed[at : at + 4] != b"\0\0\0\0":
            size, prefix, offset, inode, length = struct.unpack_from("<BBHII", packed, at)
            name = _PREFIXES.get(prefix, b"") + packed[at + 16 : at + 16 + size]
            # One that is too long for this has an inode of its own, whose number is enough to see that it is another.
            yield name, b"inode %d" % inode if inode else packed[offset : offset + length]
            at += (16 + size + 3) & ~3


def _is_power(number: int, base: int) -> bool:
    while number > 1 and number % base == 0:
        number //= base
    return number == 1


@contextlib.contextmanager
def making_sense() -> Iterator[None]:
    """What is read has been written by a guest, and may be anything: numbers that lead nowhere included.

    :raises Unreadable: it makes no sense.
    """
    try:
        yield
    except (struct.error, IndexError, KeyError, ValueError, RecursionError) as error:
        raise _damaged(f"what is written there ({error})") from None


def _damaged(what: str) -> Unreadable:
    return Unreadable(f"{what} cannot be as it is: the file system is damaged")
