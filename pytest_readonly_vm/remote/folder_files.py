"""Owns parcels in a folder of this computer, and whether that folder is the user's own."""

import os
import stat
from pathlib import Path

from pytest_readonly_vm.errors import OutOfSpace, RemoteError
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.host.os_errors import explain, is_lack

_PIECE = 1 << 20


class FolderFiles:
    """`layout.Files` in a folder, which is made, for this user alone, when something is put there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.name = str(folder)
        self.distrust = why_not_own(self._folder)
        self.is_own = not self.distrust

    def read(self, path: str, most: int) -> bytes | None:
        """Of a FIFO or device nothing is read: nobody waits for what never comes."""
        place = self._folder / path
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise RemoteError(f"{place} is no file")
                found = bytearray()
                while len(found) <= most and (piece := file.read(min(_PIECE, most + 1 - len(found)))):
                    found += piece
                return bytes(found)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RemoteError(f"{place} cannot be read: {error.strerror}") from None

    def size(self, path: str) -> int | None:
        try:
            found = (self._folder / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RemoteError(f"{self._folder / path} cannot be looked at: {error.strerror}") from None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def written(self, path: str) -> float | None:
        try:
            return (self._folder / path).lstat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RemoteError(f"{self._folder / path} cannot be looked at: {error.strerror}") from None

    def remove(self, path: str) -> None:
        try:
            (self._folder / path).unlink(missing_ok=True)
        except OSError as error:
            raise RemoteError(f"{self._folder / path} cannot be removed: {error.strerror}") from None

    def write(self, path: str, data: bytes) -> None:
        """:raises OutOfSpace: there is no room for it."""
        place = self._folder / path
        try:
            self._make_folders(place.parent)
            with atomic_file(place) as file:
                file.write(data)
        except OSError as error:
            sentence = f"nothing can be put into {self._folder}: {explain(error)}"
            raise (OutOfSpace if is_lack(error) else RemoteError)(sentence) from None

    def _make_folders(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder == self._folder:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # as the memory of a guest has its secrets
            return
        self._make_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))  # whoever shares the one shares all of it

    def names(self, folder: str) -> list[str] | None:
        try:
            return [path.name for path in (self._folder / folder).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise RemoteError(f"{self._folder / folder} cannot be listed: {error.strerror}") from None

    def close(self) -> None:
        """Nothing is open."""


def why_not_own(folder: Path) -> str:
    """Why somebody else may put something into a folder, as a sentence; empty if only this user and root may.

    So neither the folder, nor what it is in, nor what is in it, is another's, or writable for others. In a folder where
    only owners may rename (``/tmp``) those of others do no harm.
    """
    try:
        place = folder.resolve()
        for inner in (place, place / "keys", place / "blobs", place / "blobs" / "sha256"):
            if inner.exists() and (reason := _strangers(inner, is_above=False)):
                return reason
        for above in place.parents:
            if reason := _strangers(above, is_above=True):
                return reason
    except (OSError, RuntimeError) as error:
        return f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
    return ""


def _strangers(folder: Path, *, is_above: bool) -> str:
    if not folder.exists():
        return ""
    found = folder.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.getuid()):
        return f"{folder} belongs to another user ({found.st_uid})"
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not (is_above and mode & stat.S_ISVTX):
        return f"others than you may write to {folder} (mode {mode:o}; chmod go-w would mend that)"
    return ""
