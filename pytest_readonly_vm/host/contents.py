"""Owns digests of what files and folders have in them: names, modes, content, links; not their times."""

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_readonly_vm.host.image import Fingerprint

_ALWAYS_READ = 1 << 20
"""Bytes: of a larger file the digest is remembered, for as long as the file's times and the like stay the same."""
_SETTLED = 2_000_000_000
"""Nanoseconds: a file that was changed so shortly ago could change once more without another time."""


class Contents:
    """Digests, remembered where that is sound. Any thread may ask."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Fingerprint, str]] = {}

    def digest(self, path: str) -> str:
        """The digest of a file or of a folder with all that is below it; a link that is named itself is followed.

        :raises OSError: it is not there, or something of it cannot be read.
        """
        top = Path(path)
        total = hashlib.sha256()
        if top.is_dir():
            for name, member in _members(top):
                total.update(f"{os.fsencode(name)!r} {self._line(member, member.lstat())}\n".encode())
        else:
            total.update(self._line(top, top.stat()).encode())
        return total.hexdigest()

    def _line(self, path: Path, found: os.stat_result) -> str:
        kind, mode = stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)
        if stat.S_ISLNK(found.st_mode):
            return f"{kind:o} {os.fsencode(path.readlink())!r}"
        return f"{kind:o} {mode:o} {self._file(path) if stat.S_ISREG(found.st_mode) else found.st_rdev}"

    def _file(self, path: Path) -> str:
        with path.open("rb") as file:
            before = Fingerprint.of(os.fstat(file.fileno()))
            known, digest = self._known.get(path, (None, ""))
            if known == before:
                return digest
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if before.size > _ALWAYS_READ and time.time_ns() - max(before.ctime_ns, before.mtime_ns) > _SETTLED:
                self._known[path] = (before, digest)
            return digest


def _members(folder: Path) -> Iterator[tuple[str, Path]]:
    """The folder itself and all that is below, each with its name from there, always in the same order."""
    yield ".", folder
    for member in sorted(folder.iterdir()):
        if member.is_dir() and not member.is_symlink():
            for below, found in _members(member):
                yield f"{member.name}/{below}", found
        else:
            yield member.name, member
