"""Owns one file of an image, open read-only, and the fingerprint by which it is proved untouched."""

import hashlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What changes when a file is written, truncated or replaced. ``ctime`` cannot be set back by a writer."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Self:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def difference(self, later: "Fingerprint") -> str | None:
        """What happened to the file between the two, or None."""
        if (self.device, self.inode) != (later.device, later.inode):
            return "was replaced by another file"
        return self.difference_of_content(later) or (
            # A writer can set the time of its change back, but not this one.
            "was changed (its mtime is what it was, but its ctime is not)" if self.ctime_ns != later.ctime_ns else None
        )

    def difference_of_content(self, later: "Fingerprint") -> str | None:
        """The same for a file that may have lost its name meanwhile, which changes its ctime."""
        if self.size != later.size:
            return f"changed its size from {self.size} to {later.size} bytes"
        if self.mtime_ns != later.mtime_ns:
            return "was written"
        return None


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file of a backing chain, open read-only."""

    path: Path
    format: str
    descriptor: int
    fingerprint: Fingerprint

    def difference(self) -> str | None:
        """What happened to the file since it was opened, or None."""
        try:
            by_name = self.path.stat()
        except OSError as error:
            return f"can no longer be found ({error.strerror})"
        # The name first: to lose it changes the file's ctime as well.
        found = self.fingerprint.difference(Fingerprint.of(by_name))
        return found or self.fingerprint.difference(Fingerprint.of(os.fstat(self.descriptor)))

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer, or none, beyond the end."""
        return os.pread(self.descriptor, length, offset)

    def close(self) -> None:
        os.close(self.descriptor)

    def sha256(self, *, deadline: float = math.inf) -> str:
        """:raises TimeoutError: it takes until after a deadline, by `time.monotonic`."""
        digest = hashlib.sha256()
        position = 0
        while block := os.pread(self.descriptor, 1 << 20, position):
            if time.monotonic() > deadline:
                raise TimeoutError
            digest.update(block)
            position += len(block)
        return digest.hexdigest()
