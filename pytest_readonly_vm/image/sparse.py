"""Owns the copying of large files that are mostly holes, such as a guest's memory, and the digest of their content.

The digest depends on the content alone, not on where a file system happens to have holes: it is the SHA-256 over the
size and, for each aligned block of 64 KiB that is not all zero, its offset and its own SHA-256. So blocks are hashed
on several processors at once, and holes are never read.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

_BLOCK = 1 << 16
_PAGE = 1 << 12
_ZERO_BLOCK = bytes(_BLOCK)
_ZERO_PAGE = bytes(_PAGE)
_MOST_THREADS = 4
_SLICES = 8  # that each thread takes in turn, so that all end at about the same time
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def digest(source: int) -> str:
    """The digest of a file's content, in hexadecimal. The descriptor must be readable; its position does not matter.

    :raises OSError: it cannot be read.
    """
    return _walk(source, None)


def copy(source: int, target: int) -> str:
    """Copy a file's content into an empty file, zeros as holes, and return the digest of what was put there.

    :raises OSError: the source cannot be read, or there is no room for the copy.
    """
    return _walk(source, target)


def memory_copy(source: int, name: str) -> tuple[str, int]:
    """Copy a file's content into memory that nobody can change any more: the digest, and a sealed memfd.

    :raises OSError: the source cannot be read, or there is no memory for the copy.
    """
    target = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        found = _walk(source, target)
        fcntl.fcntl(target, fcntl.F_ADD_SEALS, ALL_SEALS)
    except BaseException:
        os.close(target)
        raise
    return found, target


def _walk(source: int, target: int | None) -> str:
    # An opening of our own: looking for data moves the position, which others may share.
    source = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(source).st_size
        if target is not None:
            os.ftruncate(target, size)
        offsets = list(_offsets_with_data(source, size))
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        step = len(offsets) // (threads * _SLICES) + 1
        slices = [offsets[first : first + step] for first in range(0, len(offsets), step)]
        total = hashlib.sha256(size.to_bytes(8, "little"))
        with ThreadPoolExecutor(threads) as pool:
            for lines in pool.map(lambda offsets: _take(source, target, offsets), slices):
                total.update(lines)
        return total.hexdigest()
    finally:
        os.close(source)


def _offsets_with_data(source: int, size: int) -> Iterator[int]:
    """The offsets of the blocks that are no holes throughout."""
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        offset -= offset % _BLOCK
        yield offset
        offset += _BLOCK


def _take(source: int, target: int | None, offsets: Sequence[int]) -> bytes:
    """Copy the blocks at these offsets, but for what is zero, and return what the digest is made over."""
    buffer = bytearray(_BLOCK)
    lines = bytearray()
    for offset in offsets:
        length = os.preadv(source, [buffer], offset)
        if buffer.startswith(_ZERO_BLOCK[:length]):
            continue
        lines += offset.to_bytes(8, "little") + hashlib.sha256(memoryview(buffer)[:length]).digest()
        if target is not None:
            write_pages(target, buffer, length, offset)
    return bytes(lines)


def write_pages(target: int, buffer: bytes | bytearray, length: int, offset: int) -> int:
    """Write the pages that are not all zero to a place in a file that has a hole there; return how many bytes.

    :raises OSError: there is no room.
    """
    written = 0
    for start, end in _runs(buffer, length):
        write_at(target, memoryview(buffer)[start:end], offset + start)
        written += end - start
    return written


def _runs(buffer: bytes | bytearray, length: int) -> Iterator[tuple[int, int]]:
    """Where in a block there are pages that are not all zero, neighbours together."""
    start = None
    for page in range(0, length, _PAGE):
        if not buffer.startswith(_ZERO_PAGE, page):
            start = page if start is None else start
        elif start is not None:
            yield start, page
            start = None
    if start is not None:
        yield start, length


def write_at(target: int, data: memoryview, offset: int) -> None:
    """Write all of it at this place: a system call may take less than it is given.

    :raises OSError: there is no room.
    """
    while data:
        written = os.pwrite(target, data, offset)
        data, offset = data[written:], offset + written
