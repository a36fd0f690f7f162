"""Owns the confinement of a child process, put on between fork and exec.

It dies with its parent, however that dies, and is under a Landlock ruleset if it is to be. One on which it could
not be put is not started: nobody would be there to end it.
"""

import ctypes
import mmap
import os
import signal

from pytest_readonly_vm.host.seal import restrict_self

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent() -> None:
    """Let the kernel kill this very process when the one that started it dies.

    :raises OSError: the kernel refuses.
    """
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")


class Confinement:
    """What a child of this process does first. All is looked up beforehand: there may be other threads at the fork."""

    def __init__(self, ruleset: int | None) -> None:
        self._parent = os.getpid()
        self._ruleset = ruleset
        self._words = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the child, of whose exceptions `subprocess` tells none

    def __call__(self) -> None:
        try:
            die_with_parent()
            if os.getppid() != self._parent:  # it died between the fork and the line above
                os._exit(1)
            if self._ruleset is not None:
                restrict_self(self._ruleset)
        except OSError as error:
            self._words.write(str(error).encode())
            raise

    def failure(self) -> OSError:
        """Why the child did not come to its exec."""
        words = self._words[:].rstrip(b"\0").decode()
        return OSError(f"what was to be done before its start failed: {words}")
