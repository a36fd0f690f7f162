"""Owns the place where built guests live, outside the repository, and how several builders share it.

One directory a guest, ``<guest>-<key>``, complete from the moment it is visible. The key stands for the
recipe and what it was built from, so an edited recipe builds anew; the guest's older directories then go.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "READONLY_VM_TEST_GUESTS"
"""The environment variable that moves the cache."""

_KEY_LENGTH = 16
_HOME = Path.home()  # once: a test under pytester has another

log = logging.getLogger(__name__)


def directory() -> Path:
    """Where guests are kept: ``$READONLY_VM_TEST_GUESTS``, else below the user's cache directory."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # as the XDG base directory specification has it
        cache = _HOME / ".cache"
    return cache / "pytest-readonly-vm-tests"


def key(*facts: str, recipe: Iterable[Path]) -> str:
    """The key of a guest: a hash over its recipe's source files and the `facts` that it was built from."""
    digest = hashlib.sha256()
    for part in [*(fact.encode() for fact in facts), *(source.read_bytes() for source in recipe)]:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:_KEY_LENGTH]


def get(guest: str, *, key: str, build: Callable[[Path], None]) -> Path:
    """The directory of `guest` under `key`; `build` fills a new one when there is none.

    Safe to call from several processes: one builds, the others wait. A failed build leaves nothing behind.
    """
    root = directory()
    wanted = root / f"{guest}-{key}"
    if wanted.is_dir():
        return wanted
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f".{guest}.lock", guest):
        if not wanted.is_dir():
            _remove(root.glob(f".{guest}-*.partial"))  # of builders that were killed: we hold their lock
            partial = Path(tempfile.mkdtemp(prefix=f".{guest}-", suffix=".partial", dir=root))
            try:
                build(partial)
                partial.chmod(0o755)
                partial.rename(wanted)
            finally:
                _remove([partial])
        older = set(root.glob(f"{guest}-{'[0-9a-f]' * _KEY_LENGTH}")) - {wanted}
        _remove(older)
    return wanted


def _remove(directories: Iterable[Path]) -> None:
    for path in directories:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: Path, guest: str) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process is building it, waiting", guest)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
