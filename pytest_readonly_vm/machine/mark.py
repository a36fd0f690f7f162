"""Owns a mark: what was said of a moment of a recording."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was said of a moment, such as what the guest has acknowledged by then."""

    text: str
    moment: int
    """How many entries the log had by then."""
    time: float | None = None
    """Since the epoch, on the host's clock; None for one that the guest has written."""
