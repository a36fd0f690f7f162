"""Owns the measuring of where the time of one thread goes, and what the parts are called; not who adds them up."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum


class Part(StrEnum):
    """What a thread may be busy with, or waiting for, as people are told."""

    BOOTING = "booting"
    """A machine boots, to be frozen or used; with the freezing and keeping."""
    LAYERS = "making layers"
    KEPT = "reading kept guests"
    """What an earlier run has frozen is read and compared."""
    OTHERS = "waiting for other processes"
    """Another process, a worker of this run perhaps, is making what is wanted."""
    ROOM = "waiting for room"
    """The budget is used up."""
    STARTING = "starting machines"
    """All else that there is to do until a machine is handed over, on its networks too; also a wait for one that was
    started ahead.
    """
    HEALTH = "health gates"
    IMAGES = "getting images"
    """An image is downloaded, or unpacked."""
    EVIDENCE = "saving evidence"
    ENDING = "ending machines"
    CHECKING = "checking images"


class Stopwatch:
    """Divides the time of the thread that made it among parts, no moment of it twice: an inner part stops the outer.

    Other threads' time is nobody's wait, and does not count. A part costs a microsecond or two.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._seconds: dict[Part, float] = {}
        self._part: Part | None = None
        self._since = 0.0

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """What is done in this context is a part; what comes after belongs again to the one that it is in."""
        if threading.get_ident() != self._thread:
            yield
            return
        outer = self._part
        try:  # a signal's handler may raise at any moment
            self._go_on_with(part)
            yield
        finally:
            self._go_on_with(outer)

    def _go_on_with(self, part: Part | None) -> None:
        now = time.perf_counter()
        if self._part is not None:
            self._seconds[self._part] = self._seconds.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    def take(self) -> dict[str, float]:
        """The seconds of each part since the last call, by its name."""
        taken, self._seconds = self._seconds, {}
        return {part.value: seconds for part, seconds in taken.items()}
