"""Owns the store of templates on disk, from which a run takes what an earlier run has made.

An entry is a folder named by its key, with files and a manifest that has their sizes and digests; what is in the files
is the owner's affair. An entry is complete from the moment it is visible, and may go at any moment: whoever uses one
holds descriptors. Nothing here is precious, so what is damaged or foreign is removed, and made again by somebody else.

::

    FOLDER/                 mode 0700: a guest's memory has its secrets
        KEY/                manifest.json and the files; the manifest's time is that of the last use
        KEY.lock            held by who makes the entry
        .half-RANDOM/       an entry that is being written or removed; who writes holds a lock on it
        .half-KEY-CONTENT/  one that is fetched; if nobody does, what was proved of it is there for a day
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.entries import (
    discard,
    half_made,
    is_name,
    is_portable,
    resumable_half,
    sweep,
    sweep_resumable,
)
from pytest_readonly_vm.host.folders import make_private, user_cache
from pytest_readonly_vm.host.locks import Room, build_lock, is_still
from pytest_readonly_vm.host.os_errors import is_lack
from pytest_readonly_vm.image import sparse

_FORMAT = 1
_MANIFEST = "manifest.json"


class Damaged(VmError):
    """A file of an entry is gone, or is not what was put there. The entry is of no use: remove it."""


def default_folder() -> Path:
    """``pytest-readonly-vm/templates`` in the user's cache.

    :raises HostError: the user has no home.
    """
    return user_cache() / "templates"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it was when it was found. Its files are looked at when they are opened."""

    folder: Path
    description: dict[str, Any]
    """What people want to know of it."""
    facts: dict[str, Any]
    """What its owner needs to use it."""
    digests: dict[str, str]
    """Of its files, by their names."""
    size: int
    """Bytes that it takes on the disk; holes take none."""
    last_used: float
    """Seconds since the epoch."""

    @property
    def key(self) -> str:
        return self.folder.name

    @classmethod
    def read(cls, folder: Path) -> "Entry":
        """:raises OSError: the manifest cannot be read.
        :raises ValueError: the entry is damaged, incomplete or of another format.
        """
        manifest = folder / _MANIFEST
        content, checksum = json.loads(manifest.read_bytes())
        if checksum != _checksum(content) or (content["format"], content["key"]) != (_FORMAT, folder.name):
            raise ValueError("not a manifest of this entry")
        used = manifest.stat()
        blocks = used.st_blocks
        for name, size in content["sizes"].items():
            found = (folder / name).lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                raise ValueError(f"{name} is not what it was")
            blocks += found.st_blocks
        return cls(folder, content["description"], content["facts"], content["digests"], blocks * 512, used.st_mtime)

    def open_verified(self, name: str) -> int:
        """A read-only descriptor of a file whose content is what was put there. The caller closes it.

        :raises Damaged: it is not, or the file is gone.
        :raises OSError: this process or computer has no more of what it takes to find out.
        """
        return self._verified(name, lambda source: (sparse.digest(source), os.dup(source)))

    def load_sealed(self, name: str) -> int:
        """A memfd with the content of a file, that nobody can change any more; holes stay holes. The caller closes it.

        :raises Damaged: the content is not what was put there, or the file is gone.
        :raises OSError: this process or computer has no more of what it takes to load it.
        """
        return self._verified(name, lambda source: sparse.memory_copy(source, f"readonly-vm {name}"))

    def _verified(self, name: str, take: Callable[[int], tuple[str, int]]) -> int:
        wanted, path = self.digests[name], self.folder / name  # whatever else is named is no file of the entry
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found, taken = take(source)
            finally:
                os.close(source)
        except OSError as error:
            if is_lack(error):  # the entry is as good as it was
                raise
            raise Damaged(f"{path} cannot be loaded: {error.strerror}") from None
        if found != wanted:
            os.close(taken)
            raise Damaged(f"{path} is not what was put there: its digest is another")
        return taken


class TemplateCache:
    """The entries in a folder, shared with all processes of this user. Its methods block; any thread may call them."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        """Make the folder, and sweep what dead processes left in it.

        `limit` is in bytes on the disk, and is kept by `add`.

        :raises HostError: the folder cannot be made or is not this user's alone.
        """
        make_private(folder, advice="name another folder by --vm-cache=DIR")
        self.folder = folder
        self.limit = limit
        sweep(self.folder)

    def lock(
        self, key: str, *, on_wait: Callable[[str], None], patience: float, room: Room = lambda: (set(), set())
    ) -> contextlib.AbstractContextManager[bool]:
        """Be the only one that makes an entry, after waiting for another that does; see `build_lock`.

        Who had to wait will `find` the entry, unless the other failed. Where locks cannot be had two may make it, and
        the last one stays.
        """
        what = f"the frozen guest {key[:12]}"
        return build_lock(self.folder / f"{key}.lock", what, on_wait=on_wait, patience=patience, room=room)

    def find(self, key: str) -> Entry | None:
        """The entry, which counts as used now, or None. One that is damaged or of another format is removed."""
        entry = self._read(key)
        if entry is not None:
            with contextlib.suppress(OSError):  # it has gone meanwhile, which its user will notice
                os.utime(entry.folder / _MANIFEST, ns=(time.time_ns(),) * 2)
        return entry

    def entries(self) -> list[Entry]:
        """All entries, the last used first."""
        keys = [path.name for path in self.folder.iterdir() if is_name(path.name)]
        found = [entry for key in keys if (entry := self._read(key)) is not None]
        return sorted(found, key=lambda entry: entry.last_used, reverse=True)

    def add(self, key: str, files: Mapping[str, int], *, description: dict[str, Any], facts: dict[str, Any]) -> None:
        """Keep the content of these descriptors as an entry, in place of one that is there.

        Then the entries that were not used for the longest time go, until all together are within the limit.
        `description` and `facts` are anything that JSON can hold.

        :raises OSError: no room, or the entry alone is beyond the limit; nothing is left of it. The message is one
            sentence.
        """

        def write(half: Path) -> dict[str, str]:
            return {name: _write(half / name, descriptor) for name, descriptor in files.items()}

        # A little less may be written, for there may be zeros in memory; but then gigabytes would be written in vain.
        size = sum(os.fstat(descriptor).st_blocks * 512 for descriptor in files.values())
        self._add(key, write, size, description, facts, half_made(self.folder))

    def fetch(
        self,
        key: str,
        fetch: Callable[[Path], object],
        *,
        content: str,
        size: int,
        description: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        """The same with files that somebody else writes, into a folder that is given to `fetch`.

        The folder has what is left of the last attempt, if that was for the same content, and was killed.

        :param content: what is fetched, by 16 hexadecimal digits.
        :param size: bytes that they will take on the disk.
        """

        def fetched(half: Path) -> dict[str, str]:
            (half / _MANIFEST).unlink(missing_ok=True)
            fetch(half)
            return {path.name: _digest(path) for path in half.iterdir()}

        self._add(key, fetched, size, description, facts, resumable_half(self.folder, key, content))

    def clear_halves(self) -> None:
        """Remove what killed processes have left, also what the next one could go on with."""
        sweep_resumable(self.folder)

    def _add(
        self,
        key: str,
        write: Callable[[Path], dict[str, str]],
        size: int,
        description: dict[str, Any],
        facts: dict[str, Any],
        made_in: contextlib.AbstractContextManager[Path],
    ) -> None:
        """`write` makes files in a folder, and says their digests."""
        self._require_fits(size)
        with made_in as half:
            digests = write(half)
            manifest = {
                "format": _FORMAT,
                "key": key,
                "description": description,
                "facts": facts,
                "sizes": {name: (half / name).stat().st_size for name in digests},
                "digests": digests,
            }
            content = json.loads(json.dumps(manifest))  # as it will be read
            (half / _MANIFEST).write_text(json.dumps([content, _checksum(content)], indent=1))
            self._require_fits(sum(path.stat().st_blocks * 512 for path in half.iterdir()))
            self._replace(key, half)
        self._evict(key)

    def remove(self, key: str) -> bool:
        """Remove an entry, and say whether it is gone. Who has opened its files keeps them."""
        try:
            discard(self.folder / key)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    @property
    def has_travelled(self) -> bool:
        """Whether there is an entry that came from another computer, as far as the names tell."""
        return any(is_portable(path.name) for path in self.folder.iterdir())

    def _read(self, key: str) -> Entry | None:
        folder = self.folder / key
        while True:
            try:
                seen = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                return None
            try:
                return Entry.read(folder)
            except (OSError, ValueError, LookupError, TypeError, AttributeError):  # whatever JSON may hold in its place
                if is_still(folder, seen):  # else another has come in its place meanwhile
                    self.remove(key)
                    return None
            finally:
                os.close(seen)

    def _require_fits(self, size: int) -> None:
        if size > self.limit:
            raise OSError(errno.EFBIG, f"it has {size >> 20} MiB, and the limit is {self.limit >> 20} MiB")

    def _replace(self, key: str, half: Path) -> None:
        while True:
            try:
                half.rename(self.folder / key)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not self.remove(key):
                    raise

    def _evict(self, newest: str) -> None:
        entries = self.entries()
        excess = sum(entry.size for entry in entries) - self.limit
        for entry in reversed(entries):
            if excess > 0 and entry.key != newest:
                self.remove(entry.key)
                excess -= entry.size


def _write(path: Path, source: int) -> str:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        return sparse.copy(source, target)
    finally:
        os.close(target)


def _digest(path: Path) -> str:
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return sparse.digest(source)
    finally:
        os.close(source)


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
