"""Owns what an ext4 file system says of one file beside its name, and of where its content is. Pure."""

from dataclasses import dataclass
from typing import NamedTuple


class Extent(NamedTuple):
    """Blocks of a file that are one after another: from which of the file's on, how many, where."""

    logical: int
    length: int
    place: int
    is_written: bool = True


@dataclass(frozen=True, slots=True)
class Inode:
    """What a file is, but for its name."""

    number: int
    record: bytes

    @property
    def mode(self) -> int:
        return int.from_bytes(self.record[0:2], "little")

    @property
    def uid(self) -> int:
        return int.from_bytes(self.record[2:4] + self.record[120:122], "little")

    @property
    def gid(self) -> int:
        return int.from_bytes(self.record[24:26] + self.record[122:124], "little")

    @property
    def size(self) -> int:
        return int.from_bytes(self.record[4:8] + self.record[108:112], "little")

    @property
    def links(self) -> int:
        return int.from_bytes(self.record[26:28], "little")

    @property
    def flags(self) -> int:
        return int.from_bytes(self.record[32:36], "little")

    @property
    def generation(self) -> int:
        return int.from_bytes(self.record[100:104], "little")

    @property
    def moment(self) -> tuple[object, ...]:
        """What is another one when a file has been written or replaced."""
        return self.number, self.generation, self.times

    @property
    def times(self) -> bytes:
        """Of its last change and its last writing, to be compared."""
        return self.record[12:20] + self.record[132:140]

    @property
    def tree(self) -> bytes:
        return self.record[40:100]

    @property
    def attribute_block(self) -> int:
        return int.from_bytes(self.record[104:108] + self.record[118:120], "little")

    @property
    def device(self) -> bytes:
        """Of a device node, its numbers as they are written."""
        return self.tree[:8]

    def but_for_access(self) -> bytes:
        """The record without what reading a file changes: the time of that, its count of changes, the sum over it."""
        one = self.record
        return one[:8] + one[12:36] + one[40:124] + one[126:130] + one[132:140] + one[144:152] + one[156:]
