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
    return int(_fields(pid)[1] or 0)


def state_of(pid: int) -> str:
    """A letter: ``R`` runs or would, ``S`` waits; none of a process that there is not."""
    return _fields(pid)[0].decode()


def _fields(pid: int) -> list[bytes]:
    """Of its status, from its state on; empty ones of a process that there is not."""
    return about(pid, "stat").rpartition(b")")[2].split() or [b"", b""]
