"""Owns a file that comes in pieces, over several connections and runs: ``KEY.part``, hashed as it grows.

Beside it is ``KEY.json``, by which the next run knows what it has a part of. It has the file's own name only when it is
whole, compared and on the disk. Whoever opens one holds the lock for its key.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn, Self

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.errors import HostError, OutOfSpace
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.host.os_errors import explain, is_lack

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Which file it is that a server has at a URL, as far as the server says."""

    etag: str | None = None
    """As it was sent, with quotation marks; a weak one has ``W/`` before."""
    modified: str | None = None
    """The value of Last-Modified."""
    size: int | None = None
    """Bytes of the whole."""

    @property
    def validator(self) -> str | None:
        """What `If-Range` may have: a strong ETag, or else a time. RFC 9110, section 13.1.5."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class PartFile:
    """A file that is on its way. A context manager, which closes it."""

    def __init__(self, folder: Path, key: str, *, what: str, algorithms: tuple[str, ...]) -> None:
        """Open what there is already, and hash it; a whole one as well, which nobody has taken.

        :param what: for messages.
        :raises HostError: it cannot be opened.
        """
        self.whole = folder / key
        self._folder, self._what, self._algorithms = folder, what, algorithms
        self._path, self._state = folder / f"{key}.part", folder / f"{key}.json"
        self.size = 0
        self.version = Version()
        try:
            with contextlib.suppress(FileNotFoundError):
                self.whole.rename(self._path)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"{what} cannot be put into {folder}: {explain(error)}") from None
        self._hashes = {name: hashlib.new(name) for name in algorithms}
        try:
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _read(self) -> None:
        try:
            known = json.loads(self._state.read_bytes())
            self.version = Version(etag=known["etag"], modified=known["modified"], size=known["size"])
        except (OSError, ValueError, LookupError, TypeError):  # whatever is there in its place
            os.ftruncate(self._file, 0)
            return
        while piece := os.read(self._file, _PIECE):
            self._take(piece)

    def _take(self, piece: bytes) -> None:
        for one in self._hashes.values():
            one.update(piece)
        self.size += len(piece)

    @property
    def digests(self) -> Mapping[str, Digest]:
        """Of what there is so far, by algorithm."""
        return {name: Digest(name, one.hexdigest()) for name, one in self._hashes.items()}

    def begin(self, version: Version) -> None:
        """Start from nothing, with this version of the file.

        :raises OutOfSpace: there is no room; nothing is left.
        """
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self.size, self.version = 0, version
        self._hashes = {name: hashlib.new(name) for name in self._algorithms}
        try:
            with atomic_file(self._state, mode=0o600) as file:
                file.write(json.dumps(asdict(version)).encode())
        except OSError as error:
            self._give_up(error)

    def append(self, piece: bytes) -> None:
        """Write the next piece.

        :raises OutOfSpace: there is no room; nothing is left.
        """
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._give_up(error)
        self._take(piece)

    def require_room(self, size: int) -> None:
        """Make sure that a file of so many bytes has room as a whole.

        :raises OutOfSpace: it has not; nothing is left.
        """
        found = os.statvfs(self._folder)
        free = found.f_bavail * found.f_frsize
        if size - self.size > free:
            self.discard()
            raise OutOfSpace(
                f"{self._folder} has {free >> 20} MiB free, too little for the {size >> 20} MiB of {self._what}; "
                "make room, or name another folder by --vm-image-store=DIR"
            )

    def finish(self) -> Path:
        """Bring it onto the disk, and give it its own name.

        :raises OutOfSpace: there is no room; nothing is left.
        """
        try:
            os.fsync(self._file)
            self._path.rename(self.whole)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self._give_up(error)
        return self.whole

    def forget_what_was_taken(self) -> None:
        """Remove what is known of a whole file that is not here any more."""
        if not self.whole.exists():
            self.discard()

    def discard(self) -> None:
        """Remove all that there is of it."""
        for path in (self._path, self.whole, self._state):
            with contextlib.suppress(OSError):
                path.unlink()

    def _give_up(self, error: OSError) -> NoReturn:
        size = self.size if self.version.size is None else self.version.size
        self.discard()
        sentence = f"{self._folder} cannot take the {size >> 20} MiB of {self._what}: {explain(error)}"
        if is_lack(error):
            raise OutOfSpace(f"{sentence}; make room, or name another folder by --vm-image-store=DIR") from None
        raise HostError(sentence) from None
