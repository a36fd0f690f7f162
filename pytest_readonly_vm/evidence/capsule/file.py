"""Owns the file that a capsule is: a tar archive of named members with their SHA-256. What they mean is not its affair.

::

    manifest.json      what there is, in words
    console.log        members as they are
    state.gz           ... and compressed: each MiB by itself, so that several processors work at it
    SHA256SUMS         of all others, as sha256sum(1) writes it; it comes last, so a file without it is not whole

So ``tar -xf``, ``sha256sum -c SHA256SUMS`` and ``gunzip`` open one. It may come from a stranger: nothing in it is used
as a path, and nothing is read that is longer than was said.
"""

import contextlib
import gzip
import hashlib
import io
import os
import re
import select
import stat
import tarfile
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from pytest_readonly_vm.errors import CapsuleRefused, WaitTimeout
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.image.sparse import write_at

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SUMS = "SHA256SUMS"
_PACKED = ".gz"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
_MOST_MEMBERS = 64
_RECORD = tarfile.BLOCKSIZE
_END = bytes(2 * _RECORD)
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_GZIP = 16 + zlib.MAX_WBITS
_FAST = 1
_MOST_THREADS = 4


class CapsuleWriter:
    """Takes the members of a new capsule. Made by `new_capsule`."""

    def __init__(self, file: BinaryIO, *, deadline: float) -> None:
        self._file = file
        self._deadline = deadline
        self._sums: dict[str, str] = {}

    def add(self, name: str, content: bytes) -> None:
        """A member as it is."""
        self._add(name, iter((content,)))

    def add_packed(self, name: str, source: int) -> int:
        """A member with the content of a file, compressed; returns how many bytes it has without compression.

        :param source: its descriptor: of a pipe, what comes until its end; of another file all of it.
        :raises WaitTimeout: the deadline came.
        """
        is_pipe = stat.S_ISFIFO(os.fstat(source).st_mode)
        pieces = _poured(source, self._deadline) if is_pipe else _read(source)
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in pieces:
                size += len(piece)
                yield piece

        self._add(name + _PACKED, self._packed(counted()))
        return size

    def finish(self) -> None:
        sums = "".join(f"{digest}  {name}\n" for name, digest in self._sums.items())
        self._add(_SUMS, iter((sums.encode(),)))
        self._file.write(_END)

    def _add(self, name: str, pieces: Iterator[bytes]) -> None:
        header = tarfile.TarInfo(name)
        header.mode, header.mtime = 0o600, int(time.time())
        start = self._file.tell()
        self._file.write(bytes(_RECORD))
        digest = hashlib.sha256()
        for piece in pieces:
            self._file.write(piece)
            digest.update(piece)
            header.size += len(piece)
        self._file.write(bytes(-header.size % _RECORD))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(header.tobuf(tarfile.GNU_FORMAT))
        self._file.seek(end)
        self._sums[name] = digest.hexdigest()

    def _packed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            while (piece := next(pieces, b"")) or waiting:
                if piece:
                    waiting.append(pool.submit(_pack, piece))
                if len(waiting) > 2 * threads or not piece:
                    yield waiting.popleft().result()
                if time.monotonic() > self._deadline:
                    raise WaitTimeout("the capsule was not complete in time")


def _read(source: int) -> Iterator[bytes]:
    position = 0
    while piece := os.pread(source, _PIECE, position):
        position += len(piece)
        yield piece


def _poured(pipe: int, deadline: float) -> Iterator[bytes]:
    """What comes out of a pipe, in pieces that are worth compressing."""
    piece = bytearray()
    while select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
        data = os.read(pipe, _PIECE - len(piece))
        piece += data
        if piece and (not data or len(piece) == _PIECE):
            yield bytes(piece)
            piece.clear()
        if not data:
            return
    raise WaitTimeout("the capsule was not complete in time")


def _pack(piece: bytes) -> bytes:
    packer = zlib.compressobj(_FAST, wbits=_GZIP)
    return packer.compress(piece) + packer.flush()


@contextlib.contextmanager
def new_capsule(path: Path, *, deadline: float) -> Iterator[CapsuleWriter]:
    """Write a capsule, which is there when the context is left without an error.

    The file is for this user only, as a guest's memory has its secrets.

    :param deadline: of `time.monotonic`.
    :raises OSError: it cannot be written.
    """
    with atomic_file(path, mode=0o600) as file:
        writer = CapsuleWriter(file, deadline=deadline)
        yield writer
        writer.finish()


class _Member(io.RawIOBase):
    """A stretch of a file, to be read from its beginning."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor = descriptor
        self._position = offset
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        count = os.preadv(self._descriptor, [memoryview(buffer)[: self._left]], self._position)
        self._position += count
        self._left -= count
        return count


class CapsuleReader:
    """The members of a capsule, every one of which is what was saved. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open a file and compare all digests.

        :raises CapsuleRefused: it is not a capsule, or damaged.
        :raises OSError: it cannot be read.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(self._descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise CapsuleRefused(f"{path} is not a capsule: it is no file")
            self._members = self._found_members(found.st_size)
            self._verify()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def _found_members(self, size: int) -> Mapping[str, tuple[int, int]]:
        """The offset and the size of each member by its name."""
        found: dict[str, tuple[int, int]] = {}
        position = 0
        while _SUMS not in found:
            record = os.pread(self._descriptor, _RECORD, position)
            if len(record) < _RECORD and found:
                raise CapsuleRefused(f"{self.path} is truncated")
            try:
                header = tarfile.TarInfo.frombuf(record, "utf-8", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError):
                raise self._damaged("a header is none") if found else self._no_capsule() from None
            position += _RECORD
            if header.type != tarfile.REGTYPE or not _NAME.fullmatch(header.name) or header.name in found:
                raise self._no_capsule()
            if len(found) == _MOST_MEMBERS or header.size < 0:
                raise self._no_capsule()
            if header.size > size - position:
                raise CapsuleRefused(f"{self.path} is truncated")
            found[header.name] = position, header.size
            position += header.size + -header.size % _RECORD
        return found

    def _verify(self) -> None:
        lines = self.content(_SUMS, limit=1 << 14).decode(errors="replace").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if sums.keys() != self._members.keys() - {_SUMS}:
            raise self._damaged(f"{_SUMS} is of other members")
        for name, digest in sums.items():
            if hashlib.file_digest(self._opened(name), "sha256").hexdigest() != digest:
                raise self._damaged(f"the SHA-256 of {name} is another than when it was saved")

    def content(self, name: str, *, limit: int) -> bytes:
        """What a member holds that is not compressed.

        :raises CapsuleRefused: there is none of this name, or it is longer than `limit`.
        """
        if name not in self._members:
            raise self._no_capsule()
        if self._members[name][1] > limit:
            raise self._damaged(f"{name} is too long")
        return self._opened(name).read()

    def unpack(self, name: str, target: int, *, size: int) -> None:
        """Write what a compressed member holds to an empty file, zeros as holes.

        :param size: what it must amount to, in bytes.
        :raises CapsuleRefused: it does not, or cannot be unpacked.
        :raises OSError: it cannot be written.
        """
        if name + _PACKED not in self._members:
            raise self._damaged(f"{name} is missing")
        os.ftruncate(target, size)
        position = 0
        try:
            with gzip.GzipFile(fileobj=self._opened(name + _PACKED)) as packed:
                while piece := packed.read(_PIECE):
                    if position + len(piece) > size:
                        raise self._damaged(f"{name} is longer than it should be")
                    if not _ZEROS.startswith(piece):
                        write_at(target, memoryview(piece), position)
                    position += len(piece)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise self._damaged(f"{name} cannot be unpacked") from None
        if position != size:
            raise self._damaged(f"{name} is shorter than it should be")

    def _opened(self, name: str) -> io.BufferedReader:
        return io.BufferedReader(_Member(self._descriptor, *self._members[name]), _PIECE)

    def _no_capsule(self) -> CapsuleRefused:
        return CapsuleRefused(f"{self.path} is not a capsule")

    def _damaged(self, how: str) -> CapsuleRefused:
        return CapsuleRefused(f"{self.path} is damaged: {how}")
