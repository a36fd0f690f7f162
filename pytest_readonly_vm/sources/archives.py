"""Owns how archives are read: the members of a tar or a zip one after another, each as a stream, none by its name.

An archive may be a stranger's. Nothing is made on the disk here, whatever a member is called or is; and what a header
says of lengths does not decide how much memory or, within a `ReadingBound`, how much time is taken.
"""

import contextlib
import errno
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.image.packed_streams import ByteStream

_ENCRYPTED = 1  # of the flags of a member
_MOST_MEMBERS = 10_000
_BLOCK = 1 << 18
_LONGEST_HEADER = 16 << 20
"""Bytes of headers for one member of a tar, where a sparse file has its map; and of the directory of a zip."""
_REST = 64 << 20
"""Bytes behind the end of a tar that are read for the checksum of what it is packed in; tar fills up its last block."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive, to be read before the next one is asked for. `link` is what it is if it is none."""

    name: str
    size: int
    content: ByteStream
    link: str = ""


class ReadingBound:
    """How much is read of one stranger's file in all, at whatever depth: a few bytes of it may stand for any number."""

    def __init__(self, most: int, refusal: ImageError) -> None:
        """
        :param most: bytes.
        :param refusal: raised when somebody reads more.
        """
        self._left = most
        self._refusal = refusal

    def within(self, source: ByteStream) -> ByteStream:
        """The same stream, which counts."""

        def read(size: int) -> bytes:
            data = source.read(size)
            self._left -= len(data)
            if self._left < 0:
                raise self._refusal
            return data

        return ByteStream(read)


def tar_members(source: ByteStream, what: str) -> Iterator[Member]:
    """The files and links of a tar, in their order.

    :raises ImageError: it is damaged or truncated, or no archive that a disk would be in; `what` names it.
    """
    readable = cast(IO[bytes], source)  # of which tarfile wants no more than that
    source.allowance = _LONGEST_HEADER  # as it reads the first header when it is opened
    with _complaints(what, "tar"), tarfile.open(fileobj=readable, mode="r|", bufsize=_BLOCK) as tar:
        for number in range(_MOST_MEMBERS + 1):
            source.allowance = _LONGEST_HEADER
            info = tar.next()
            source.allowance = None
            if info is None:
                break
            if number == _MOST_MEMBERS:
                raise ImageError(_too_many(what))
            tar.members = []  # type: ignore[attr-defined] # which it would keep to the end
            link = _link(info)
            if link or info.isreg():
                file = None if link else tar.extractfile(info)
                content = ByteStream(_complaining(file.read, what, "tar") if file else _nothing)
                yield Member(_plain(info.name), info.size, content, link)
            _skip_rest(tar)
    # Whatever it is packed in has a checksum at its end, which is read for that.
    for _ in range(_REST // _BLOCK):
        if not source.read(_BLOCK):
            break


def zip_members(file: io.FileIO, what: str) -> Iterator[Member]:
    """The files and links of a zip, as `tar_members`.

    :raises ImageError: it is damaged, encrypted, or packed in a way that Python cannot unpack.
    """
    with _complaints(what, "zip"), zipfile.ZipFile(cast(IO[bytes], _Bounded(file))) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise ImageError(_too_many(what))
        for info in members:
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                yield Member(_plain(info.filename), 0, ByteStream(_nothing), "a symbolic link")
                continue
            if info.flag_bits & _ENCRYPTED:
                raise ImageError(f"{what} is encrypted, and there is no setting for a key; unpack it by hand")
            with archive.open(info) as content:
                read = _complaining(content.read, what, "zip")
                yield Member(_plain(info.filename), info.file_size, ByteStream(read))


def _skip_rest(tar: tarfile.TarFile) -> None:
    """Read what the archive has of a member that nobody wanted: not its holes, of which a sparse one has any number."""
    stream = cast(IO[bytes], tar.fileobj)
    while (rest := tar.offset - 1 - stream.tell()) > 0:  # the last byte is for tarfile, as it knows an end by that
        if not stream.read(min(rest, _BLOCK)):
            raise tarfile.ReadError("unexpected end of data")


@contextlib.contextmanager
def _complaints(what: str, tool: str) -> Iterator[None]:
    """While an archive is read: what Python's library has against it, in one sentence."""
    try:
        yield
    except OverflowError:
        raise ImageError(f"{what} has more than {_LONGEST_HEADER >> 20} MiB of headers for one file") from None
    except NotImplementedError as error:
        raise ImageError(f"{what} is packed in a way that Python does not know ({error}); unpack it by hand") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning, as it says
            raise
        raise ImageError(f"{what} is damaged or truncated, as its parts are nowhere; download it again") from None
    except RecursionError:
        raise ImageError(f"{what} is damaged: it has a header of a header of a header; download it again") from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise ImageError(f"{what} is damaged or truncated, {tool} finds: {error}; download it again") from None


def _complaining(read: Callable[[int], bytes], what: str, tool: str) -> Callable[[int], bytes]:
    """The same for what whoever has a member reads of it."""

    def complaining(size: int) -> bytes:
        with _complaints(what, tool):
            return read(size)

    return complaining


def _nothing(_: int) -> bytes:
    return b""


class _Bounded:
    """A file of which nobody gets more at once than a directory may have. zipfile reads that whole."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > _LONGEST_HEADER:
            raise OverflowError
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _link(info: tarfile.TarInfo) -> str:
    if info.issym():
        return "a symbolic link"
    if info.islnk():
        return "a hard link"
    return "a device or a pipe" if info.isdev() else ""


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _too_many(what: str) -> str:
    return f"{what} is an archive of more than {_MOST_MEMBERS} files; give the image that is in it"
