"""Owns what a server of images can be asked, whatever it speaks. All of it goes on on the loop."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Told:
    """What a server tells of its file."""

    size: int
    etag: str = ""
    """A strong one only."""
    modified: str = ""
    sha256: str = ""
    is_writable: bool = False
    """Whether it would take writes, which it gets none of."""

    def difference(self, later: "Told") -> str | None:
        """What happened to the file between the two, or None."""
        if self.size != later.size:
            return f"changed its size from {self.size} to {later.size} bytes"
        for name, before, after in (
            ("ETag", self.etag, later.etag),
            ("Last-Modified", self.modified, later.modified),
            ("SHA-256", self.sha256, later.sha256),
        ):
            if before != after:
                return f"is another file by now: its {name} is {after or 'gone'} and was {before or 'not given'}"
        return None


class Refused(Exception):
    """It is of no use to ask again: there is no such file, or it cannot be read in parts.

    The message continues a sentence about it.
    """


class Changed(Exception):
    """It is another file than it was; the message continues a sentence about it."""


class Unanswered(Exception):
    """An answer did not come, or says to come again; the message continues a sentence about the file."""


class ImageServer(Protocol):
    """One that has the file. What comes late is given up by whoever waits, who then calls `hang_up`."""

    @property
    def connections(self) -> int:
        """How often it was connected to anew, where that may have led to another file and nothing tells."""

    async def look(self) -> Told:
        """What is told of the file now.

        :raises Refused, Unanswered: it is not.
        """

    async def read(self, offset: int, length: int) -> bytes:
        """So many bytes, all of which are within the file.

        :raises Changed: they are another file's.
        :raises Refused, Unanswered: they are not given.
        """

    def hang_up(self) -> None:
        """Leave connections that do not answer, for new ones."""

    def close(self) -> None:
        """Leave all."""
