"""Owns the time limit of what has none of its own: libraries that others have written wait as they like."""

import threading
from collections.abc import Callable
from typing import TypeVar

from pytest_readonly_vm.errors import RemoteError

T = TypeVar("T")


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """What a call returns or raises, on a thread of its own, which nobody waits for any more after that time.

    :raises RemoteError: it takes longer; `what` begins the sentence.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="readonly-vm-remote", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise RemoteError(f"{what} has not answered within {seconds:g} s")
    return found[0]
