"""Owns what looking on is: how people are told of work that takes long, while it goes on. Who shows it, others say."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Show = Callable[[str], object]
"""Called once a second at least, on any thread, with a line that tells all that the one before did."""

Watch = Callable[[bool], AbstractContextManager[Show | None]]
"""A context for such work, which gives None where nobody looks on. It is told whether code of the user's runs in it."""


def nobody(users_code: bool) -> AbstractContextManager[None]:
    """A `Watch` for who does not look."""
    return nullcontext()
