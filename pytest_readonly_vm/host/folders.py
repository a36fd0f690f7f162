"""Owns the folders that this user has outside of any project: where the cache is, and that what is private stays so."""

import contextlib
import os
import shlex
import stat
import tempfile
from pathlib import Path

from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.host.os_errors import explain


def user_cache() -> Path:
    """Where this package keeps what can be made again: below ``$XDG_CACHE_HOME``, else ``~/.cache``.

    :raises HostError: the user has no home, or somebody else has made the folder.
    """
    place = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not place.is_absolute():  # to be ignored then, as the XDG base directory specification has it
        try:
            place = Path.home() / ".cache"
        except RuntimeError:
            raise HostError("this user has no home directory, so nothing can be cached; set XDG_CACHE_HOME") from None
    folder = place / "pytest-readonly-vm"
    with contextlib.suppress(OSError):  # it is not there yet, or whoever makes it will meet the same
        link, found = folder.lstat(), folder.stat()
        if {link.st_uid, found.st_uid} != {os.getuid()} or found.st_mode & stat.S_IWOTH:
            raise HostError(
                f"{folder} is not yours alone to write (owner {found.st_uid}, mode {found.st_mode & 0o7777:o})"
            )
    return folder


def require_cache(folder: Path) -> None:
    """Make the folder for frozen guests, if it is not there, and try it.

    :raises HostError: it cannot be used; the message says what to do.
    """
    advice = "name another folder by --vm-cache=DIR, or use --vm-no-cache"
    make_private(folder, advice=advice)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise HostError(f"nothing can be put into {folder}: {explain(error)}; {advice}") from None


def make_private(folder: Path, *, advice: str) -> None:
    """Make a folder of mode 0700 if it is not there, and make sure that it is this user's alone.

    :raises HostError: it cannot be made, or is another's, or open to others; the message ends with the advice.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise HostError(f"{folder} cannot be used: {error.strerror}; {advice}") from None
    # Anybody may have made a folder of this name in a place that all can write.
    is_yours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_yours or found.st_mode & 0o077:
        # Where others could write they may have left something.
        remedy = f"chmod 700 {shlex.quote(str(folder))}" if is_yours and not found.st_mode & 0o022 else "remove it"
        raise HostError(
            f"{folder} is not a folder that only you can use (owner {found.st_uid}, mode {found.st_mode & 0o7777:o}); "
            f"{remedy}, or {advice}"
        )
