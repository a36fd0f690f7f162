"""Owns how files become blocks, and which of them are sent: those that do not lie at the place already."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pytest_readonly_vm.remote.packing import BLOCK, LARGEST_PACK
from pytest_readonly_vm.remote.parcel import Block, File, Manifest, Pack

_WORTH = 0.25
"""A pack of another parcel of which less than this is of use is not fetched for it: the blocks are sent anew."""


@dataclass(frozen=True, slots=True)
class _Place:
    pack: Pack
    offset: int


class Known:
    """Blocks that lie at a place, by their digests."""

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}

    def add(self, manifest: Manifest, is_there: Callable[[Pack], bool]) -> None:
        """Those of a parcel that lies there, and has blocks like ours; of its packs those that are there."""
        if manifest.block != BLOCK:
            return
        there = [is_there(pack) for pack in manifest.packs]
        for file in manifest.files.values():
            for one in file.blocks:
                if there[one.pack]:
                    self._places.setdefault(one.sha256, _Place(manifest.packs[one.pack], one.offset))

    def keep_useful(self, wanted: Mapping[bytes, int]) -> None:
        """Forget all that is not wanted, and packs of which too little is; `wanted` has lengths by digests."""
        useful: dict[str, int] = {}
        self._places = {sha256: place for sha256, place in self._places.items() if sha256 in wanted}
        for sha256, place in self._places.items():
            useful[place.pack.digest] = useful.get(place.pack.digest, 0) + wanted[sha256]
        self._places = {
            sha256: place
            for sha256, place in self._places.items()
            if useful[place.pack.digest] >= _WORTH * place.pack.unpacked
        }

    def find(self, sha256: bytes) -> tuple[Pack, int] | None:
        """The pack and the offset in it."""
        place = self._places.get(sha256)
        return (place.pack, place.offset) if place else None


class Split:
    """The files of one parcel, as blocks: of packs that lie there, and of new ones that `packs` gives."""

    def __init__(self, files: Mapping[str, int], known: Known) -> None:
        self._files = files
        self._known = known
        self._new = 0
        self._numbers: dict[str, int] = {}  # of packs that lie there, by digest
        self.old: list[Pack] = []
        """Packs of others that are of use."""
        self._blocks: dict[str, list[tuple[int, int, int, bytes]]] = {name: [] for name in files}
        self._seen: dict[bytes, tuple[int, int]] = {}
        known.keep_useful({sha256: len(data) for _, _, data, sha256 in self._all()})

    def packs(self) -> Iterator[bytes]:
        """The contents of new packs, in order. :raises OSError: a file cannot be read."""
        buffer = bytearray()
        for name, number, data, sha256 in self._all():
            if sha256 not in self._seen:
                if (found := self._known.find(sha256)) is not None:
                    self._seen[sha256] = (-1 - self._number(found[0]), found[1])
                else:
                    if len(buffer) + len(data) > LARGEST_PACK:
                        yield bytes(buffer)
                        self._new += 1
                        buffer = bytearray()
                    self._seen[sha256] = (self._new, len(buffer))
                    buffer += data
            self._blocks[name].append((number, *self._seen[sha256], sha256))
        if buffer:
            yield bytes(buffer)
            self._new += 1

    def files(self) -> dict[str, File]:
        """Them, when all packs have been taken: of new packs first, in order, then of `old`."""

        def block(number: int, pack: int, offset: int, sha256: bytes) -> Block:
            return Block(number, pack if pack >= 0 else self._new - 1 - pack, offset, sha256)

        return {
            name: File(os.fstat(self._files[name]).st_size, tuple(block(*one) for one in blocks))
            for name, blocks in self._blocks.items()
        }

    def _number(self, pack: Pack) -> int:
        if pack.digest not in self._numbers:
            self._numbers[pack.digest] = len(self.old)
            self.old.append(pack)
        return self._numbers[pack.digest]

    def _all(self) -> Iterator[tuple[str, int, bytes, bytes]]:
        for name, descriptor in self._files.items():
            for number, data in blocks_of(descriptor, BLOCK):
                yield name, number, data, hashlib.sha256(data).digest()


def blocks_of(descriptor: int, length: int) -> Iterator[tuple[int, bytes]]:
    """The blocks of a file that are not all zero, with their numbers; holes are not read.

    :raises OSError: it cannot be read.
    """
    # An opening of our own: looking for data moves the position, which others may share.
    source = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        number, size, zeros = 0, os.fstat(source).st_size, bytes(length)
        while number * length < size:
            try:
                number = max(number, os.lseek(source, number * length, os.SEEK_DATA) // length)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            data = os.pread(source, length, number * length)
            if data and not zeros.startswith(data):
                yield number, data
            number += 1
    finally:
        os.close(source)
