"""What the kernel refuses is a sentence with the limit that was met; what is no refusal of its stays what it is."""

import errno
import resource

import pytest

from pytest_readonly_vm import ConfigurationError, HostError, TransferError
from pytest_readonly_vm.host.os_errors import host_errors, is_lack


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.EMFILE, "x"),
            rf"this process may have no more than {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files",
        ),
        (OSError(errno.EAGAIN, "x"), "this user may have no more than -?[0-9]+ processes and threads"),
        (RuntimeError("can't start new thread"), "this user may have no more than -?[0-9]+ processes and threads"),
        (OSError(errno.EFBIG, "x", "/a/b"), "/a/b: a file of this process may have no more than -?[0-9]+ bytes"),
        (OSError(errno.ENOSPC, "x", b"/a/b"), "/a/b: No space left on device \\(or no inodes"),
        (OSError(errno.ENOTDIR, "x", "/a/b"), "/a/b: Not a directory"),
        (MemoryError(), "Cannot allocate memory"),
    ],
)
def test_a_refusal_is_a_sentence(error: BaseException, sentence: str) -> None:
    @host_errors("nothing can be done")
    def act() -> None:
        raise error

    with pytest.raises(HostError, match=rf"^nothing can be done: {sentence}"):
        act()


@pytest.mark.parametrize(
    "error",
    [TransferError("x"), ConfigurationError("x"), TimeoutError("x"), RuntimeError("x"), ValueError("x"), OSError("x")],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, host_errors("nothing can be done"):
        raise error
    assert raised.value is error


def test_a_lack_of_ours_is_no_fault_of_a_file() -> None:
    assert is_lack(OSError(errno.EMFILE, "x"))
    assert is_lack(OSError(errno.ENOSPC, "x"))
    assert not is_lack(OSError(errno.ENOENT, "x"))
    assert not is_lack(OSError(errno.EIO, "x"))
