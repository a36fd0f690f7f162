"""What the kernel tells of processes."""

from collections.abc import Iterator
from pathlib import Path


def pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def about(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:  # it has ended meanwhile, or is another user's
        return b""


def parent_of(pid: int) -> int:
    fields = about(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0
