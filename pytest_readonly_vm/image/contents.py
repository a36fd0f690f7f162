"""Owns digests of what files and folders have in them: names, modes, content, links; not their times."""

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pytest_readonly_vm.image.image_file import Fingerprint

_ALWAYS_READ = 1 << 20
"""Bytes: of a larger file the digest is remembered, for as long as the file's times and the like stay the same."""
_PIECE = 1 << 20
_SETTLED = 2_000_000_000
"""Nanoseconds: a file that was changed so shortly ago could change once more without another time."""


class ContentDigests:
    """Digests, remembered where that is sound. Any thread may ask."""

    def __init__(self) -> None:
        self._known: dict[Fingerprint, str] = {}

    def digest(self, path: str) -> str:
        """The digest of a file or of a folder with all that is below it; a link that is named itself is followed.

        :raises OSError: it is not there, or something of it cannot be read.
        """
        total = hashlib.sha256()
        for line in self._lines(path, "", Path(path).stat()):
            total.update(line)
        return total.hexdigest()

    def digest_or_reason(self, path: str) -> str:
        """The digest, or why there is none, of which something may have been made as well."""
        try:
            return self.digest(path)
        except OSError as error:
            return str(error.strerror)

    def has_read(self, reads: Mapping[str, str]) -> bool:
        """Whether files have in them what they had when they were read, by their paths and digests then."""
        return all(self.digest_or_reason(path) == known for path, known in reads.items())

    def _lines(self, path: str, name: str, found: os.stat_result) -> Iterator[bytes]:
        """One for each member, always in the same order; `name` is its name from the top."""
        shown, kind = f"{os.fsencode(name)!r} {found.st_mode:o}", stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFLNK:
            yield f"{shown} {os.fsencode(Path(path).readlink())!r}\n".encode()
        elif kind == stat.S_IFREG:
            yield f"{shown} {self._file(path)}\n".encode()
        else:
            yield f"{shown} {found.st_rdev}\n".encode()
        if kind == stat.S_IFDIR:
            with os.scandir(path) as entries:
                members = sorted(entries, key=lambda entry: entry.name)
            for entry in members:
                yield from self._lines(entry.path, f"{name}/{entry.name}", entry.stat(follow_symlinks=False))

    def _file(self, path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            before = Fingerprint.of(os.fstat(descriptor))
            if known := self._known.get(before):
                return known
            digest = hashlib.sha256()
            while piece := os.read(descriptor, _PIECE):
                digest.update(piece)
        finally:
            os.close(descriptor)
        is_settled = time.time_ns() - max(before.ctime_ns, before.mtime_ns) > _SETTLED
        if before.size > _ALWAYS_READ and is_settled:
            self._known[before] = digest.hexdigest()
        return digest.hexdigest()
