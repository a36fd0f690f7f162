"""Owns who talked to whom on a network: a row for each way, all of it as a table, what was dropped. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_readonly_vm.printable import count

_UNITS = ("B", "KiB", "MiB", "GiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What one machine has sent to another: `frames` and `bytes`, those that a fault has lost included."""

    source: str
    to: str
    frames: int
    bytes: int
    protocols: Mapping[str, int]
    """The most frequent ones of the frames that the network remembers, with the lower of both ports, and how many."""

    def __str__(self) -> str:
        return f"{self.source} to {self.to}: {count(self.frames, 'frame')}, {_size(self.bytes)}"


def talks(rows: Iterable[Mapping[str, Any]]) -> tuple[Talk, ...]:
    """As a switch tells them."""
    return tuple(Talk(**row) for row in rows)


def table(found: Iterable[Talk]) -> str:
    """All of it for people; nothing if nobody has talked."""
    rows = [("from", "to", "frames", "bytes", "protocols")]
    for one in found:
        protocols = ", ".join(f"{name} {count}" for name, count in one.protocols.items())
        rows.append((one.source, one.to, str(one.frames), _size(one.bytes), protocols))
    if len(rows) == 1:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    )


def dropped(to: Iterable[tuple[str, int]], late: int) -> str:
    """What a switch says of frames that it dropped, for people; nothing if there are none.

    :param to: machines that were too slow to take them, and how many.
    :param late: how many for which there was no room, as too many were late or held.
    """
    found = [f"{count(frames, 'frame')} to {name}, whose card does not take them fast enough" for name, frames in to]
    if late:
        found.append(f"{count(late, 'frame')} on the way, as too many were late or held")
    return f"dropped: {'; '.join(found)}" if found else ""


def _size(count: int) -> str:
    size = float(count)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
