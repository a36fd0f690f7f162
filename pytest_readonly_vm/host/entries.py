"""Owns the entries of a cache on disk: folders that appear when they are whole, and of which nobody sees a part go.

Each is named by a digest. What is being made or removed has a name of its own meanwhile, ``.half-RANDOM``, and who
makes it holds a lock on it, so the next process knows what a dead one has left. What takes long to come is made in
``.half-NAME`` and can be gone on with: its name says what it is to become, and it stays for a day.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_readonly_vm.host.locks import is_still, new_locked_folder, remove_if_unlocked, try_lock

_NAME = re.compile(r"[0-9a-f]{64}")
_PORTABLE = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")
_HALF = ".half-"
_RESUMABLE = re.compile(rf"{re.escape(_HALF)}({_PORTABLE.pattern})-[0-9a-f]{{16}}")
_PATIENCE = 24 * 3600.0
"""Seconds for which somebody may go on with what an interrupted process has left of a resumable half."""


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


@contextlib.contextmanager
def resumable_half(folder: Path, name: str, content: str) -> Iterator[Path]:
    """The same for an entry of this portable name, with what an interrupted process has left of it, if one has.

    Where another process makes it at this moment, it is a new folder, with nothing.

    :param content: 16 hexadecimal digits that say what it is to become: of another content nothing is left.
    :raises OSError: it cannot be made.
    """
    path = folder / f"{_HALF}{name}-{content}"
    assert _RESUMABLE.fullmatch(path.name)
    lock = None
    with contextlib.suppress(FileNotFoundError):  # who sweeps has taken it for a dead one's
        path.mkdir(mode=0o700, exist_ok=True)
        lock = try_lock(path)
    if lock is None:
        with half_made(folder) as half:
            yield half
        return
    with lock:
        try:
            os.utime(path)  # the day begins anew
            yield path
        except Exception:  # an interrupt leaves it, as a kill does
            if is_still(path, lock.descriptor):  # else it is an entry, and another process begins a new one
                delete(path)
            raise


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
    """Remove what dead processes have left: entries that never became whole, and ``NAME.lock`` files.

    What can be gone on with stays for a day, unless what it was to become is there.
    """
    for half in folder.glob(f"{_HALF}*"):
        if not _may_be_gone_on_with(half):
            _remove_if_dead(half)
    for path in folder.glob("*.lock"):
        if is_name(path.stem):
            remove_if_unlocked(path)


def sweep_resumable(folder: Path) -> None:
    """Remove what could be gone on with, too, but for what somebody makes at this moment."""
    for half in folder.glob(f"{_HALF}*"):
        _remove_if_dead(half)


def _may_be_gone_on_with(half: Path) -> bool:
    found = _RESUMABLE.fullmatch(half.name)
    if found is None or half.with_name(found[1]).exists():
        return False
    try:
        return abs(time.time() - half.stat().st_mtime) < _PATIENCE  # a clock may have been set back
    except OSError:
        return False


def _remove_if_dead(half: Path) -> None:
    with contextlib.suppress(OSError):
        if (lock := try_lock(half)) is not None:
            with lock:
                delete(half)
