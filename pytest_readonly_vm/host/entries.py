"""Owns the entries of a cache on disk: folders that appear when they are whole, and of which nobody sees a part go.

Each is named by a digest. What is being made or removed has a name of its own meanwhile, ``.half-RANDOM``, and who
makes it holds a lock on it, so the next process knows what a dead one has left.
"""

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pytest_readonly_vm.host.locks import new_locked_folder, remove_if_unlocked, try_lock

_NAME = re.compile(r"[0-9a-f]{64}")
_PORTABLE = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")
_HALF = ".half-"


def is_name(name: str) -> bool:
    """Whether an entry may be called so."""
    return bool(_NAME.fullmatch(name)) or is_portable(name)


def is_portable(name: str) -> bool:
    """Whether it is the name of an entry that came from another computer."""
    return bool(_PORTABLE.fullmatch(name))


def portable(key: str) -> str:
    """The name of an entry that came from another computer, where it has this key of 64 digits."""
    return f"{key[:32]}-{key[32:]}"


@contextlib.contextmanager
def half_made(folder: Path) -> Iterator[Path]:
    """A new folder for what is to become an entry, when it is renamed to the name of one; else it goes.

    :raises OSError: it cannot be made.
    """
    lock = new_locked_folder(folder, prefix=_HALF)
    try:
        yield lock.path
    finally:
        delete(lock.path)
        lock.release()


def discard(entry: Path) -> None:
    """Remove an entry. Who has opened its files keeps them.

    :raises OSError: it is not there, or is where nothing can be renamed; then all of it stays.
    """
    entry.rename(half := entry.with_name(f"{_HALF}{secrets.token_hex(8)}"))  # nobody ever sees a part of it
    delete(half)


def delete(path: Path) -> None:
    """Remove whatever is there, as far as that can be done."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()  # when it is no folder


def sweep(folder: Path) -> None:
    """Remove what dead processes have left: entries that never became whole, and ``NAME.lock`` files."""
    for half in folder.glob(f"{_HALF}*"):
        with contextlib.suppress(OSError):
            if (lock := try_lock(half)) is not None:
                with lock:
                    delete(half)
    for path in folder.glob("*.lock"):
        if is_name(path.stem):
            remove_if_unlocked(path)
