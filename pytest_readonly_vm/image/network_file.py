"""Owns the one file of an image that stays on the network: by what it is known, who reads it, and what it is to others.

It has no descriptor. Whoever wants its bytes asks for them, and a process that reads it is lent a line of its own.
"""

import hashlib
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.errors import BaseImageChanged, BaseImageLost, VmError
from pytest_readonly_vm.image.image_file import ImageFile

_PIECE = 4 << 20

NOWHERE = -1
"""Device and inode of what is no file of this computer."""


@dataclass(frozen=True, slots=True)
class NetworkFingerprint:
    """By what a file on the network is known again. `run` is empty where that is enough for another run as well."""

    url: str
    """A digest of it, as it may have secrets in it."""
    size: int
    etag: str = ""
    """What a web server says that changes with each change of the file."""
    modified: str = ""
    sha256: str = ""
    """As the server tells, or whoever has named the file."""
    run: str = ""

    device = inode = NOWHERE
    mtime_ns = 0

    def __str__(self) -> str:
        told = {"size": self.size, "etag": self.etag, "modified": self.modified, "sha256": self.sha256}
        return " ".join(f"{name}={value}" for name, value in told.items() if value)

    @property
    def is_lasting(self) -> bool:
        """Whether another run knows by it that the file is the same."""
        return not self.run


@dataclass(frozen=True, slots=True, eq=False)
class Trouble:
    """What has become of a file on the network, as the end of a sentence about it."""

    said: str
    is_change: bool
    """Whether it is another one now; else its server does not answer."""

    def error(self, what: str) -> VmError:
        """For whoever waits; `what` begins the sentence."""
        kind = BaseImageChanged if self.is_change else BaseImageLost
        return kind(f"{what} {self.said}")


def socket_node(descriptor: int) -> dict[str, object]:
    """What is below a format in QEMU's block layer, where a process has its line under this descriptor."""
    return {"driver": "nbd", "server": {"type": "fd", "str": str(descriptor)}}


class Line:
    """What one process that reads a file has of it: a socket on which it finds NBD's protocol, read-only."""

    def __init__(self, socket: socket.socket, close: Callable[[], None]) -> None:
        self.socket = socket
        """That process's end, to be closed when it has been started."""
        self.close = close
        """End it, from any thread."""


class Reader(Protocol):
    """Who reads a file on the network. Any thread but the loop's may ask."""

    @property
    def trouble(self) -> Trouble | None:
        """What has happened to the file or its server, if something has."""

    @property
    def waiting(self) -> float:
        """Seconds for which an answer has been waited for; 0 if none is."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer, or none, beyond the end.

        :raises BaseImageLost: the server does not answer.
        :raises BaseImageChanged: it has another file by now.
        """

    def lend(self, on_trouble: Callable[[Trouble], None]) -> Line:
        """A line for one process; `on_trouble` is called on the loop before that process is told of an error."""

    def compare(self) -> Trouble | None:
        """Ask the server whether the file is what it was."""

    def close(self) -> None:
        """Read no more."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkFile:
    """One file on the network, all of an image."""

    path: NetworkImage
    format: str
    virtual_size: int
    """Bytes of the disk that is in it."""
    fingerprint: NetworkFingerprint
    reader: Reader

    def in_format(self, format: str, virtual_size: int) -> "NetworkFile":
        """The same, as it was found to be."""
        return replace(self, format=format, virtual_size=virtual_size)

    def read(self, offset: int, length: int) -> bytes:
        """As `Reader.read`."""
        return self.reader.read(offset, length)

    def difference(self) -> str | None:
        """What happened to the file since it was opened, or None.

        :raises BaseImageLost: its server does not tell.
        """
        found = self.reader.compare()
        if found is not None and not found.is_change:
            raise found.error(f"the base image {self.path}")
        return found.said if found else None

    def require_served(self) -> None:
        """Ask a server once more that did not answer.

        :raises BaseImageLost: it does not now.
        :raises BaseImageChanged: it has another file.
        """
        if self.reader.trouble is not None and (found := self.reader.compare()) is not None:
            raise found.error(f"the base image {self.path}")

    def sha256(self, *, deadline: float = math.inf) -> str:
        """Of all its bytes, of which each comes over the network.

        :raises TimeoutError: it takes until after a deadline, by `time.monotonic`.
        :raises BaseImageLost: the server does not answer.
        """
        digest = hashlib.sha256()
        for offset in range(0, self.fingerprint.size, _PIECE):
            if time.monotonic() > deadline:
                raise TimeoutError
            digest.update(self.read(offset, _PIECE))
        return digest.hexdigest()

    def close(self) -> None:
        self.reader.close()


ChainFile = ImageFile | NetworkFile
"""One file of a backing chain, wherever it is."""

Where = Path | NetworkImage
"""What it is known by to people."""
