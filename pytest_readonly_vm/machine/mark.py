"""Owns marks: what was said of moments of a recording, by the host, or by the guest in the log itself."""

import os
from dataclasses import dataclass

from pytest_readonly_vm.disks.write_log import SECTOR, WriteLog
from pytest_readonly_vm.printable import line

MARKS = 4096
"""Bytes of the place on a disk to which a guest may write marks."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was said of a moment, such as what the guest has acknowledged by then."""

    text: str
    moment: int
    """How many entries the log had by then."""
    time: float | None = None
    """Since the epoch, on the host's clock; None for one that the guest has written."""


def guest_marks(log: WriteLog, descriptor: int, place: int | None) -> tuple[list[Mark], set[int]]:
    """Those that the guest has written, and the numbers of their entries.

    :param descriptor: of the log.
    :param place: the byte of the disk at which they are written; None if none are.
    :raises OSError: the log cannot be read.
    """
    marks: list[Mark] = []
    numbers: set[int] = set()
    if place is None:
        return marks, numbers
    first, last = place // SECTOR, (place + MARKS) // SECTOR
    for entry in range(len(log)):
        if log.has_data(entry) and first <= log.sector[entry] and log.sector[entry] + log.count[entry] <= last:
            numbers.add(entry)
            data = os.pread(descriptor, log.count[entry] * SECTOR, log.data[entry])
            if text := data.partition(b"\0")[0].partition(b"\n")[0].decode(errors="replace"):
                marks.append(Mark(line(text), entry + 1))
    return marks, numbers
