"""What this process holds of the system and in memory, to be compared between two moments of a test."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SLACK = 1 << 20
"""Bytes of Python's own that may come and go beside what is counted: caches, of code and of imports."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds of the system."""

    descriptors: int
    threads: int
    files: tuple[str, ...]

    @classmethod
    def now(cls, workspaces: Path) -> Self:
        gc.collect()
        return cls(
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            threads=len(list(Path("/proc/self/task").iterdir())),
            files=tuple(sorted(str(path) for path in workspaces.rglob("*"))),
        )

    def are_no_more_than(self, held: Self) -> bool:
        """Whether all but files has been given back; a thread that was joined may be there for a moment yet."""
        return self.descriptors <= held.descriptors and self.threads <= held.threads
