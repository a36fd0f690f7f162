"""Owns the writing of a file that nobody sees before it is whole, and of which nothing is left otherwise."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"
"""What the name of an unfinished file ends with, where it has to have one; it begins with a dot."""

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
"""What open(2) says of O_TMPFILE where a file system or kernel has none."""


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file, for reading and writing, that takes its place, and another's, when the context ends without an error.

    It has no name until then, so that a SIGKILL leaves nothing of it; see ``O_TMPFILE`` in open(2). On a file system
    that cannot do this (NFS, some overlays) it has a hidden name beside its place.

    :param mode: as of `os.open`; the umask counts.
    :raises OSError: it cannot be written.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}{PARTIAL_SUFFIX}")
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
        is_named = False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        is_named = True
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if not is_named:
                # A link replaces nothing, and a rename does; between the two a kill would leave a whole file.
                # The descriptor is of no use to an absolute path, and has Python follow the link: linkat(2).
                os.link(f"/proc/self/fd/{file.fileno()}", partial, src_dir_fd=file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
