"""The log that QEMU writes of a disk is read to its end, and nothing else is taken for a part of it."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm.disks.write_log import DISCARD, FLUSH, SECTOR, LogDamaged, WriteLog
from tests.unit.write_logs import ONE, entry, superblock

SECTORS = 64

Read = Callable[[bytes], WriteLog]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(content: bytes) -> WriteLog:
        path = tmp_path / "log"
        path.write_bytes(content)
        return WriteLog(os.open(path, os.O_RDONLY), SECTORS)

    return read


def test_entries_are_walked_whatever_the_superblock_counts(read: Read) -> None:
    log = read(superblock(count=1) + entry(3, 2, data=ONE * 2) + entry(flags=FLUSH) + entry(8, 4, flags=DISCARD))
    assert [list(log.sector), list(log.count), list(log.flags)] == [[3, 0, 8], [2, 0, 4], [0, FLUSH, DISCARD]]
    assert list(log.flushes) == [1]
    assert log.is_whole
    assert [log.is_write(number) for number in range(3)] == [True, False, True]
    assert [*log.read(0, most=SECTOR)] == [(3 * SECTOR, ONE), (4 * SECTOR, ONE)]
    assert [*log.read(0, most=9999, sectors=1)] == [(3 * SECTOR, ONE)]
    assert [*log.read(2, most=SECTOR)] == [(8 * SECTOR, 4 * SECTOR)]


def test_log_of_a_guest_that_never_flushes_has_no_superblock(read: Read) -> None:
    assert len(read(bytes(SECTOR) + entry(1, 1, data=ONE))) == 1
    assert [len(read(content)) for content in (b"", bytes(SECTOR))] == [0, 0]


@pytest.mark.parametrize("missing", [1, SECTOR, SECTOR + 1, 2 * SECTOR, 3 * SECTOR - 1])
def test_torn_last_entry_is_left_out(read: Read, missing: int) -> None:
    log = read((superblock() + entry(1, 1, data=ONE) + entry(5, 2, data=ONE * 2))[:-missing])
    assert (len(log), log.is_whole) == (1, False)


def test_what_is_behind_an_entry_that_is_missing_is_left_out(read: Read) -> None:
    log = read(superblock() + entry(1, 1, data=ONE) + bytes(2 * SECTOR) + entry(flags=FLUSH))
    assert (len(log), log.is_whole) == (1, False)


@pytest.mark.parametrize(
    "damaged",
    [
        entry(1, 1, flags=8, data=ONE),
        entry(1, 1, length=5, data=ONE),
        entry(SECTORS - 1, 2, data=ONE * 2),
        entry(2**63, 2**63, data=ONE),
        ONE,
    ],
)
def test_what_qemu_does_not_write_is_no_entry(read: Read, damaged: bytes) -> None:
    with pytest.raises(LogDamaged, match=f"byte {3 * SECTOR} of the log"):
        read(superblock() + entry(1, 1, data=ONE) + damaged)


def test_what_begins_otherwise_is_no_log(read: Read) -> None:
    with pytest.raises(LogDamaged, match="does not begin"):
        read(superblock(size=4096) + entry(1, 1, data=ONE))


def test_moment_counts_what_had_begun(read: Read) -> None:
    """So what the guest knows to be done when the log had so many bytes is before it."""
    log = read(superblock() + entry(1, 2, data=ONE * 2) + entry(flags=FLUSH))
    sizes = [0, SECTOR, SECTOR + 1, 4 * SECTOR, 4 * SECTOR + 1, 5 * SECTOR]
    assert [log.moment(size) for size in sizes] == [0, 0, 1, 1, 2, 2]


def test_zeros_that_take_no_room_are_told_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.write(superblock() + entry(0, 1 << 16))
        file.truncate(file.tell() + (SECTOR << 16))
    log = WriteLog(os.open(path, os.O_RDONLY), 1 << 16)
    pieces = [*log.read(0, most=1 << 20)]
    assert sum(piece if isinstance(piece, int) else len(piece) for _, piece in pieces) == SECTOR << 16
    assert any(isinstance(piece, int) for _, piece in pieces)


def test_fewer_entries(read: Read) -> None:
    log = read(superblock() + entry(1, 1, data=ONE) + entry(flags=FLUSH) + entry(2, 1, data=ONE) + entry(flags=FLUSH))
    log.cut_short(2)
    assert (len(log), list(log.flushes)) == (2, [1])


def test_header_is_as_the_kernel_has_it() -> None:
    """Of a log that QEMU 7.2 has written: a superblock with one entry, of one sector."""
    assert struct.unpack("<QQQ", superblock(count=1)[:24]) == (0x6A736677736872, 1, 1)
