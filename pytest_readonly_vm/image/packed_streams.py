"""Owns streams of bytes and their unpacking: gzip, xz, lzma, bzip2 and zstd, in constant memory, whatever is in them.

zstd came to Python with 3.14; for earlier ones there is an official backport, which has the same names. It is an extra,
as a computer for which nobody has built it would otherwise need a compiler for the whole plugin.
"""

import bz2
import importlib
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.image.signatures import Stream

_INPUT = 1 << 17
_MEMORY = 256 << 20
"""Bytes that unpacking may take; ``xz -9`` needs 65 MiB. zstd has a bound of its own, of 128 MiB."""
_LONGEST_BEGINNING = 16


class _Decompressor(Protocol):
    """What those of Python's library have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's, which has another interface; it compares the checksum as well."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        tail = self._inner.unconsumed_tail
        unpacked = self._inner.decompress(tail + data if tail else data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(unpacked) < max_length
        return unpacked


def _zstd() -> Any:
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    ".gz": _Gzip,
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY),
    ".lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _MEMORY),
    ".bz2": bz2.BZ2Decompressor,
    ".zst": lambda: _zstd().ZstdDecompressor(),
}


class ByteStream:
    """Bytes that come one after another, and can be looked at before."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """`read` returns at most so many bytes, and none at the end only."""
        self._read = read
        self._ahead = b""
        self.allowance: int | None = None
        """How many bytes may still be read, of who reads what he does not know the length of."""

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end only, which are still to be read."""
        self._ahead += self._read_all(size - len(self._ahead))
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end only.

        :raises OverflowError: more than was allowed.
        """
        if self.allowance is not None:
            self.allowance -= size
            if self.allowance < 0:
                raise OverflowError
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data + self._read_all(size - len(data)) if data else self._read_all(size)

    def _read_all(self, size: int) -> bytes:
        parts = []
        while size > 0 and (part := self._read(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def can_unpack(kind: Stream) -> bool:
    """Whether streams of a kind are unpacked here at all."""
    return kind.suffix in _DECOMPRESSORS


def unpacked(source: ByteStream, kind: Stream, what: str) -> ByteStream:
    """What is in a packed stream, of a kind that can be unpacked; `what` names it in messages.

    Streams that stand one behind the other are one, as for the programs. What comes then is of no concern: some
    projects append a signature.

    :raises ImageError: there is nothing to unpack it with; later, on reading: it is damaged, truncated, or takes too
        much memory.
    """
    try:
        one = _DECOMPRESSORS[kind.suffix]()
    except ImportError:
        raise ImageError(
            f"{what} is packed by zstd, for which Python needs: pip install 'pytest-readonly-vm[images]'; or give what "
            "is in it, after: zstd -d"
        ) from None
    rest = b""

    def read(size: int) -> bytes:
        nonlocal one, rest
        while True:
            if one.eof:
                rest = _behind(one.unused_data, source)
                if not re.match(kind.begins, rest, re.DOTALL):
                    return b""
                one = _DECOMPRESSORS[kind.suffix]()
            data = b""
            if one.needs_input:
                data, rest = rest or source.read(_INPUT), b""
                if not data:
                    raise ImageError(f"{what} is truncated: it ends within what {kind.tool} has packed")
            if found := _decompress(one, data, size, kind, what):
                return found

    return ByteStream(read)


def _behind(unused: bytes, source: ByteStream) -> bytes:
    """The bytes behind the end of a stream, without the zeros that may stand between two."""
    while True:
        if len(unused) < _LONGEST_BEGINNING:
            unused += source.read(_INPUT)
        found = unused.lstrip(b"\0")
        if found or not unused:
            return found
        unused = b""


def _decompress(one: _Decompressor, data: bytes, size: int, kind: Stream, what: str) -> bytes:
    try:
        return one.decompress(data, size)
    except MemoryError:
        raise
    except Exception as error:  # each library has its own, and bzip2 an OSError
        words = str(error).rstrip(".")
        if "emory" in words:
            raise ImageError(
                f"{what} takes more memory to unpack than it may ({words}); give what is in it, after: {kind.tool} -d"
            ) from None
        raise ImageError(f"{what} is damaged, {kind.tool} finds: {words}; download it again") from None


def beginning(kind: Stream, data: bytes, size: int) -> bytes:
    """The first bytes of what is packed in `data`, as far as they can be had."""
    ended = iter((data,))
    try:
        return unpacked(ByteStream(lambda _: next(ended, b"")), kind, "").read(size) if can_unpack(kind) else b""
    except ImageError:  # damaged, packed in a way of its own, or by what is not here
        return b""
