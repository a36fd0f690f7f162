"""The disks of a log's cuts, as QEMU's own tools read them."""

import json
import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.disks import cut_layers
from pytest_readonly_vm.disks.cut_disk import CutDisk
from pytest_readonly_vm.disks.cut_layers import CutLayers
from pytest_readonly_vm.disks.cut_rules import CutRules, Survivors
from pytest_readonly_vm.disks.partition_table import FIRST, partition
from pytest_readonly_vm.disks.raw_disk import RawDisk
from pytest_readonly_vm.disks.write_log import DISCARD, FLUSH, SECTOR, WriteLog
from pytest_readonly_vm.host.tool import run_tool
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from tests.unit.write_logs import entry, superblock

SIZE = 20 << 20
"""More than one L2 table of a layer has."""
QEMU_IMG = Path(shutil.which("qemu-img") or "qemu-img")
LENGTHS = (1, 2, 7, 8, 8, 8, 31, 33, 64, 100)


def some_log(path: Path, entries: int, seed: int) -> WriteLog:
    """Writes of all kinds, many of them over each other, at both ends of the disk too."""
    any_of = random.Random(seed)
    content = superblock()
    for _ in range(entries):
        count = any_of.choice(LENGTHS)
        place = any_of.choice((0, SIZE // SECTOR - count, any_of.randrange(200), any_of.randrange(32000, 33000)))
        match any_of.randrange(8):
            case 0:
                content += entry(flags=FLUSH)
            case 1:
                content += entry(place, count, flags=DISCARD)
            case 2:
                content += entry(place, count, data=bytes(count * SECTOR))
            case 3:
                content += entry(place, count, data=any_of.randbytes(count // 2 * SECTOR).ljust(count * SECTOR, b"\0"))
            case _:
                content += entry(place, count, data=any_of.randbytes(count * SECTOR))
    path.write_bytes(content)
    return WriteLog(os.open(path, os.O_RDONLY), SIZE // SECTOR)


def expected(before: bytes, log: WriteLog, state: Survivors) -> bytes:
    """The same by the simplest way."""
    disk = bytearray(before)
    writes = [(number, None) for number in range(state.sure) if log.is_write(number)]
    for number, sectors in [*writes, *state.kept(log)]:
        for offset, data in log.read(number, most=1 << 30, sectors=sectors):
            piece = bytes(data) if isinstance(data, int) else data
            disk[offset : offset + len(piece)] = piece
    return bytes(disk)


@pytest.fixture
def before(tmp_path: Path) -> Iterator[tuple[bytes, ImageFile]]:
    """A disk that has something everywhere, so that what comes from below is seen."""
    content = random.Random(4).randbytes(1 << 16) * (SIZE >> 16)
    path = tmp_path / "before.img"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    yield content, ImageFile(path, "raw", descriptor, Fingerprint.of(os.fstat(descriptor)))
    os.close(descriptor)


def read(disk: CutDisk, folder: Path) -> bytes:
    with (folder / "read.raw").open("w+b") as file:
        disk.convert(file.fileno(), format="raw", qemu_img=QEMU_IMG, failure="test")
        file.seek(0)
        return file.read()


def check_image(file: ImageFile) -> None:
    node = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": f"/proc/self/fd/{file.descriptor}"}})
    done = run_tool([str(QEMU_IMG), "check", f"json:{node}"], timeout=60, pass_fds=(file.descriptor,))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("block", "in_memory"), [(1 << 40, 1 << 40), (1 << 16, 1 << 40), (1 << 14, 0)])
def test_qemu_reads_what_the_log_says(
    tmp_path: Path, before: tuple[bytes, ImageFile], monkeypatch: pytest.MonkeyPatch, block: int, in_memory: int
) -> None:
    """As one layer, as many, and as files instead of memory; forwards, and back."""
    monkeypatch.setattr(cut_layers, "_BLOCK", block)
    monkeypatch.setattr(cut_layers, "_IN_MEMORY", in_memory)
    content, image = before
    log = some_log(tmp_path / "log", 300, seed=block % 1009)
    rules, layers = CutRules(log), CutLayers(log, SIZE, tmp_path)
    names = [*rules.names("flush", limit=6, seed=1, torn=True), *rules.names("random", limit=4, seed=2, torn=True)]
    checked: set[Fingerprint] = set()
    for name in (*names, "flush:1", f"at:{len(log)}"):
        state = rules.state(name)
        disk = CutDisk(layers.build(state), (image,), SIZE, None)
        assert read(disk, tmp_path) == expected(content, log, state), name
        for layer in disk.layers:
            if layer.fingerprint not in checked:  # most of them serve the next disk as they are
                check_image(layer)
            checked.add(layer.fingerprint)
        if block < 1 << 20:
            assert len(disk.layers) < 25
        disk.close()
    layers.close()


def test_layer_cannot_be_written(tmp_path: Path) -> None:
    log = some_log(tmp_path / "log", 20, seed=5)
    layers = CutLayers(log, SIZE, tmp_path)
    [layer] = layers.build(CutRules(log).state("at:20"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(layer.descriptor, b"x", 0)
    again = os.open(f"/proc/self/fd/{layer.descriptor}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(again, b"x", 0)
    os.close(again)
    os.close(layer.descriptor)


def test_blank_disk_has_zeros_below(tmp_path: Path) -> None:
    log = some_log(tmp_path / "log", 40, seed=6)
    state = CutRules(log).state("at:40")
    disk = CutDisk(CutLayers(log, SIZE, tmp_path).build(state), (), SIZE, SIZE)
    assert read(disk, tmp_path) == expected(bytes(SIZE), log, state)
    disk.close()


def test_disk_in_a_file_is_brought_from_cut_to_cut(tmp_path: Path, before: tuple[bytes, ImageFile]) -> None:
    content, _ = before
    log = some_log(tmp_path / "log", 300, seed=8)
    rules = CutRules(log)
    path = tmp_path / "disk.raw"
    path.write_bytes(content)
    disk = RawDisk(path, log, (0, SIZE))
    for name in rules.names("flush", limit=8, seed=1, torn=True):
        if disk.can_be(state := rules.state(name)):
            with disk.at(state):
                assert path.read_bytes() == expected(content, log, state), name
    assert not disk.can_be(rules.state("flush:0"))
    with disk.at(rules.state(f"at:{len(log)}")):
        path.write_bytes(b"")
    assert disk.is_spoilt


def test_part_of_a_disk_in_a_file(tmp_path: Path, before: tuple[bytes, ImageFile]) -> None:
    content, _ = before
    log = some_log(tmp_path / "log", 200, seed=9)
    begin, size = 5 * SECTOR, SIZE // 2
    path = tmp_path / "part.raw"
    path.write_bytes(content[begin : begin + size])
    state = CutRules(log).state("random:1:5:torn")
    with RawDisk(path, log, (begin, size)).at(state):
        assert path.read_bytes() == expected(content, log, state)[begin : begin + size]


def mbr(*entries: tuple[int, int, int]) -> bytes:
    table = b"".join(struct.pack("<B3xB3xII", 0, kind, start, count) for kind, start, count in entries)
    return (bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa").ljust(FIRST, b"\0")


def gpt(*entries: tuple[int, int]) -> bytes:
    table = b"".join(b"t" * 16 + b"u" * 16 + struct.pack("<QQ", *one).ljust(96, b"\0") for one in entries)
    return (mbr((0xEE, 1, 99))[:512] + b"EFI PART".ljust(512, b"\0") + table).ljust(FIRST, b"\0")


def test_partitions_are_where_the_tables_say() -> None:
    assert partition(mbr((0x83, 8, 4), (0x83, 16, 2)), 2, SIZE) == (16 * SECTOR, 2 * SECTOR)
    assert partition(gpt((40, 47), (48, 49)), 1, SIZE) == (40 * SECTOR, 8 * SECTOR)


@pytest.mark.parametrize(
    ("first", "number"),
    [
        (bytes(FIRST), 1),
        (mbr((0x83, 8, 4)), 2),
        (mbr((0x83, 8, 4)), 5),
        (mbr((0x83, 8, 4)), 0),
        (mbr((0x83, 8, 1 << 31)), 1),
        (mbr((0xEE, 1, 4)), 1),
        (gpt((40, 47)), 2),
        (gpt((40, 47)), 129),
        (gpt((40, 39)), 1),
        (gpt((0, 2**64 - 1)), 1),
        (gpt((40, 47))[:1024], 1),
    ],
)
def test_there_is_no_such_partition(first: bytes, number: int) -> None:
    assert partition(first, number, SIZE) is None
