"""Owns waiting for a condition, with a deadline; what the tests do where others sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

GENEROUS = 60.0
"""Seconds that a step may take on a slow computer that others use as well."""

PROMISED = 2.0
"""Seconds after which nothing of a dead run may live."""

LIMITS = (1, 4, 16, GENEROUS)
"""Seconds after which what never ends is ended: the first of them that leaves time for what is to come before."""


def eventually(condition: Callable[[], T], what: str, *, within: float = GENEROUS) -> T:
    """The first true value of `condition`, looked at every hundredth of a second.

    :raises AssertionError: there was none within so many seconds; the message says `what` and the last value.
    """
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() > deadline
        if value := condition():
            return value
        if late:
            raise AssertionError(f"not within {within:g} s: {what}; last: {value!r}")
        time.sleep(0.01)


def as_promised(condition: Callable[[], T], what: str) -> None:
    """See that something is so within the seconds of the promise.

    On a computer with other work who looks is late as well as what is looked at: there are a hundred looks at least.

    :raises AssertionError: it is not so.
    """
    deadline = time.monotonic() + PROMISED
    looks = 0
    while not condition():
        looks += 1
        assert looks < 100 or time.monotonic() < deadline, f"not within {PROMISED:g} s: {what}"
        time.sleep(0.01)
