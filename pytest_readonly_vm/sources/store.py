"""Owns the store of images that were unpacked or downloaded, each once for all runs of a user.

An entry is a folder named by the digest of its image's content (see `sparse`), and a source is what it was made of: a
packed file with its times, the digest of a download. An entry is complete from the moment it is visible, is never
written, and may go when nobody holds its lock. What is damaged is removed, and made again by who needs it.

::

    FOLDER/                 mode 0700
        DIGEST/             the image under its own name, and manifest.json, whose time is that of the last use
        sources/KEY         the digest of what was made of a source
        KEY.lock            held by who makes something of that source
        downloads/          what is on its way, which the next run goes on with
        .half-RANDOM/       an entry that is being made or removed; who makes it holds a lock on it
"""

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.host.entries import delete, discard, half_made, is_name, sweep
from pytest_readonly_vm.host.folders import make_private, user_cache
from pytest_readonly_vm.host.locks import Lock, build_lock, try_lock
from pytest_readonly_vm.image import sparse
from pytest_readonly_vm.image.image_file import Fingerprint

_MANIFEST = "manifest.json"
_SOURCES, _DOWNLOADS = "sources", "downloads"
_DAMAGED = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, LookupError, TypeError)
"""What comes of reading an entry that is not whole, whatever JSON may hold in the place of its manifest."""
_TRIES = 3
_PATIENCE = 3600.0
"""Seconds for which one waits for another that makes the same, as long as that one is not stopped."""


def default_folder() -> Path:
    """``pytest-readonly-vm/images`` in the user's cache.

    :raises HostError: the user has no home.
    """
    return user_cache() / "images"


def is_of_a_store(path: Path) -> bool:
    """Whether a path is that of an image in a store, of this user or another, be it there or not."""
    return is_name(path.parent.name)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of the store. It stays as long as `lock` is held."""

    path: Path
    digest: str
    size: int
    """Bytes that it takes on the disk."""
    source: str
    """What it was made of, for people."""
    last_used: float
    """Seconds since the epoch."""
    lock: Lock


class ImageStore:
    """The images in a folder. Its methods block; any thread and process of this user may call them."""

    def __init__(self, folder: Path, *, limit: int) -> None:
        """Make the folder, and sweep what dead processes left in it.

        :param limit: bytes on the disk, kept by `get`.
        :raises HostError: the folder cannot be made or is not this user's alone.
        """
        make_private(folder, advice="name another folder by --vm-image-store=DIR")
        for name in (_SOURCES, _DOWNLOADS):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.limit = limit
        self._sweep()

    @property
    def downloads(self) -> Path:
        """The folder for what is on its way."""
        return self.folder / _DOWNLOADS

    def get(
        self, source: str, make: Callable[[Path], Path], *, shown: str, on_wait: Callable[[str], None]
    ) -> StoredImage:
        """The image that was made of a source, made now if there is none.

        Then the images that were not used for the longest time go, until all together are within the limit, but for
        those in use.

        :param source: what tells it from all others: the same source is the same image.
        :param make: puts the image into an empty folder and returns its path; what else is there goes.
        :param shown: the source for people.
        :param on_wait: told that another process makes it, and when it does no more.
        :raises ImageError: the image alone is beyond the limit. Nothing is left of it.
        :raises OSError: it cannot be kept.
        """
        key = _key(source)
        if (found := self._find(key)) is not None:
            return found
        with build_lock(self.folder / f"{key}.lock", shown, on_wait=on_wait, patience=_PATIENCE):
            for _ in range(_TRIES):
                if (found := self._find(key)) is not None:
                    return found
                self._make(key, make, shown)
        raise ImageError(f"{shown} does not stay in the store of images {self.folder}; does another run empty it?")

    def has(self, source: str) -> bool:
        """Whether something that was made of a source is here. It may go at any time."""
        digest = self._known(_key(source))
        return digest is not None and (self.folder / digest / _MANIFEST).exists()

    def entries(self) -> Iterator[StoredImage]:
        """All images that can be read now, in no order; each is held until the next is asked for."""
        for path in self.folder.iterdir():
            found = None
            with contextlib.suppress(OSError):
                found = self._open(path.name) if is_name(path.name) else None
            if found is not None:
                with found.lock:
                    yield found

    def remove(self, digest: str) -> bool:
        """Remove an image, and say whether it is gone; one in use stays."""
        folder = self.folder / digest
        try:
            if (lock := try_lock(folder)) is None:
                return not folder.exists()
        except OSError:
            return not os.path.lexists(folder)
        with lock, contextlib.suppress(OSError):
            discard(folder)
        return not folder.exists()

    def _find(self, key: str) -> StoredImage | None:
        digest = self._known(key)
        found = self._open(digest) if digest is not None else None
        if found is not None:
            with contextlib.suppress(OSError):
                os.utime(found.path.with_name(_MANIFEST), ns=(time.time_ns(),) * 2)
        return found

    def _known(self, key: str) -> str | None:
        """The digest of what was made of a source, if it was."""
        try:
            digest = (self.folder / _SOURCES / key).read_text()
        except (FileNotFoundError, ValueError):
            return None
        return digest if is_name(digest) else None

    def _open(self, digest: str) -> StoredImage | None:
        """An entry, held; None if there is none. One that is not what was put there is removed.

        :raises OSError: it cannot be told, as there are too many open files, say. Whatever it is, it stays.
        """
        folder = self.folder / digest
        try:
            lock = try_lock(folder, shared=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if lock is None:  # it is on its way out
            return None
        try:
            return self._read(folder, lock)
        except _DAMAGED:
            lock.release()
            with contextlib.suppress(OSError):
                discard(folder)  # also where others use it, who are to hear of it
            return None
        except BaseException:
            lock.release()
            raise

    def _read(self, folder: Path, lock: Lock) -> StoredImage:
        manifest = folder / _MANIFEST
        content: dict[str, Any] = json.loads(manifest.read_bytes())
        path = folder / content["name"]
        found = path.lstat()
        if path.parent != folder or path.is_symlink() or content["size"] != found.st_size:
            raise ValueError("not what was put there")
        if content["fingerprint"] != list(astuple(Fingerprint.of(found))):
            # Copied from elsewhere, as a cache of CI is; or written by somebody.
            if _digest(path) != folder.name:
                raise ValueError("not what was put there")
            with contextlib.suppress(OSError):  # no room, say: the next one compares it again
                _write_manifest(folder, path, content["source"])
        used = manifest.stat().st_mtime
        return StoredImage(path, folder.name, found.st_blocks * 512, str(content["source"]), used, lock)

    def _make(self, key: str, make: Callable[[Path], Path], shown: str) -> None:
        with half_made(self.folder) as half:
            path = make(half)
            size = path.stat().st_blocks * 512
            if size > self.limit:
                raise ImageError(
                    f"{shown} takes {size >> 20} MiB, more than the {self.limit >> 20} MiB that the store of images "
                    f"{self.folder} may take; see --vm-image-store-size"
                )
            path.chmod(0o400)
            digest = _digest(path)
            for other in half.iterdir():
                if other != path:
                    delete(other)
            _write_manifest(half, path, shown)
            self._put(half, digest)
            with atomic_file(self.folder / _SOURCES / key, mode=0o600) as file:
                file.write(digest.encode())
        self._evict(digest)

    def _put(self, half: Path, digest: str) -> None:
        if (there := self._open(digest)) is not None:  # the same image, from another source
            there.lock.release()
            return
        try:
            half.rename(self.folder / digest)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # it has come meanwhile
                raise

    def _evict(self, newest: str) -> None:
        entries = sorted(self.entries(), key=lambda entry: entry.last_used)
        excess = sum(entry.size for entry in entries) - self.limit
        for entry in entries:
            if excess > 0 and entry.digest != newest and self.remove(entry.digest):
                excess -= entry.size

    def _sweep(self) -> None:
        sweep(self.folder)
        for path in (self.folder / _SOURCES).iterdir():
            with contextlib.suppress(OSError, ValueError):
                digest = path.read_text()
                if not is_name(digest) or not (self.folder / digest).exists():
                    path.unlink()


def _key(source: str) -> str:
    return hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()


def _digest(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return sparse.digest(descriptor)
    finally:
        os.close(descriptor)


def _write_manifest(folder: Path, image: Path, source: str) -> None:
    """Say of an image that it is whole, once it is on the disk: a power cut must not leave that word and zeros."""
    _sync(image)
    with contextlib.suppress(OSError):  # which some file systems cannot; without its name it is made again
        _sync(folder)
    found = image.stat()
    content = {
        "name": image.name,
        "size": found.st_size,
        "fingerprint": astuple(Fingerprint.of(found)),
        "source": source,
    }
    with atomic_file(folder / _MANIFEST, mode=0o600) as file:
        file.write(json.dumps(content).encode())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
