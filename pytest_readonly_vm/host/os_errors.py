"""Owns the sentence for what the kernel refuses: which limit of this computer or of this process was met, and where."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

from pytest_readonly_vm.errors import HostError, VmError

_NO_THREAD = "can't start new thread"  # Python's own words for EAGAIN, in a RuntimeError

_LIMITS = {
    errno.EMFILE: ("this process may have no more than {} open files (ulimit -n)", resource.RLIMIT_NOFILE),
    errno.EAGAIN: ("this user may have no more than {} processes and threads (ulimit -u)", resource.RLIMIT_NPROC),
    errno.EFBIG: ("a file of this process may have no more than {} bytes (ulimit -f)", resource.RLIMIT_FSIZE),
}
_LACKS = (errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def host_errors(doing: str) -> Iterator[None]:
    """While something is done that is ours alone, as no code of users is called there. A decorator as well.

    :raises HostError: the kernel has refused; `doing` is the beginning of the sentence.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, VmError) or (sentence := explain(error)) is None:
            raise
        raise HostError(f"{doing}: {sentence}") from None


def is_lack(error: OSError) -> bool:
    """Whether it tells of what this process or computer has no more of, and not of the file that was meant."""
    return error.errno in _LIMITS or error.errno in _LACKS


def explain(error: BaseException) -> str | None:
    """A refusal of the kernel as a sentence; None for an error of another kind."""
    if isinstance(error, OSError) and error.errno is not None:
        number, place = error.errno, error.filename
    elif str(error) == _NO_THREAD:
        number, place = errno.EAGAIN, None
    elif isinstance(error, MemoryError):
        number, place = errno.ENOMEM, None
    else:
        return None
    words = os.strerror(number) + (" (or no inodes: df -h, df -i)" if number == errno.ENOSPC else "")
    if number in _LIMITS:
        sentence, limit = _LIMITS[number]
        words = sentence.format(resource.getrlimit(limit)[0])
    return words if place is None else f"{os.fsdecode(place)}: {words}"
