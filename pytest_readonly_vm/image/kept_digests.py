"""Owns the digests of images as they are kept for later runs, so that a file of gigabytes is read once and not by each.

A digest is kept under what changes when a file is written, replaced or copied: device, inode, size and times. It is not
where these do not tell all, nor of a file that was written just now, whose next change may have the same time.
"""

import contextlib
import hashlib
import os
import re
import time
from dataclasses import astuple
from pathlib import Path

from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.host.folders import make_private, user_cache
from pytest_readonly_vm.host.locks import build_lock
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.writers import times_show_writes
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile

_JUST_NOW = 2.0
"""Seconds within which a file system may give two changes the same time; those of FAT are the coarsest."""
_MOST = 1000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATIENCE = 3600.0


class KeptDigests:
    """Those of this user. Any thread and process may ask; each digest is made once, and others wait for it."""

    def __init__(self) -> None:
        self._known: OncePerKey[Fingerprint, str] = OncePerKey()

    def sha256(self, file: ImageFile) -> str:
        """The SHA-256 of all bytes of a file, in hexadecimal. Reads it where that is not known: 0.6 s for a GB.

        :raises OSError: it cannot be read.
        """
        return self._known.get(file.fingerprint, lambda: self._found(file))

    def _found(self, file: ImageFile) -> str:
        settled = time.time() - max(file.fingerprint.ctime_ns, file.fingerprint.mtime_ns) / 1e9 > _JUST_NOW
        folder = self._folder() if settled and times_show_writes(file.descriptor) else None
        if folder is None:
            return file.sha256()
        key = hashlib.sha256(repr(astuple(file.fingerprint)).encode()).hexdigest()
        if found := _read(folder / key):
            return found
        with build_lock(folder / f"{key}.lock", str(file.path), on_wait=lambda words: None, patience=_PATIENCE):
            if found := _read(folder / key):
                return found
            found = file.sha256()
            if Fingerprint.of(os.fstat(file.descriptor)) == file.fingerprint:
                with contextlib.suppress(OSError):  # no room: it is made again
                    with atomic_file(folder / key, mode=0o600) as kept:
                        kept.write(found.encode())
                    _prune(folder)
            return found

    @staticmethod
    def _folder() -> Path | None:
        try:
            folder = user_cache() / "digests"
            make_private(folder, advice="remove it")
        except HostError:
            return None
        return folder


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeError):
        found = path.read_text()
        return found if _DIGEST.fullmatch(found) else None
    return None


def _prune(folder: Path) -> None:
    """Remove the oldest, if there are too many."""
    kept = [path for path in folder.iterdir() if _DIGEST.fullmatch(path.name)]
    if len(kept) > _MOST:
        for path in sorted(kept, key=lambda path: path.stat().st_mtime)[: len(kept) - _MOST]:
            path.unlink(missing_ok=True)
