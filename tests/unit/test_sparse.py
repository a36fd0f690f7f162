"""Copies of sparse files have the same content and the same holes; the digest tells contents apart, and only those."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.image import sparse

SIZES = (0, 1, 4095, 4096, 65535, 65536, 65537, (1 << 20) + 1, (64 << 20) + 5)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def memory(*parts: tuple[int, bytes], size: int) -> int:
    descriptor = os.memfd_create("parts")
    os.ftruncate(descriptor, size)
    for offset, data in parts:
        os.pwrite(descriptor, data, offset)
    return descriptor


def digest_of(*parts: tuple[int, bytes], size: int) -> str:
    descriptor = memory(*parts, size=size)
    try:
        return sparse.digest(descriptor)
    finally:
        os.close(descriptor)


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


@pytest.mark.parametrize("size", SIZES)
def test_the_content_arrives_and_its_digest_is_that_of_the_source(source: int, tmp_path: Path, size: int) -> None:
    os.pwrite(source, os.urandom(min(size, 100_000)), 0)
    os.ftruncate(source, size)
    os.pwrite(source, b"end"[-min(size, 3) :], max(size - 3, 0))
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(source, size)
        assert sparse.copy(source, target) == sparse.digest(source) == sparse.digest(target)
        assert content(target) == content(source)
    finally:
        os.close(target)


def test_zeros_become_holes_and_holes_stay(source: int, tmp_path: Path) -> None:
    os.pwrite(source, bytes(8 << 20), 0)
    os.pwrite(source, b"x" * 4096, 1 << 20)
    os.ftruncate(source, 1 << 30)
    _, copy = sparse.memory_copy(source, "copy")
    try:
        assert (os.fstat(copy).st_size, os.fstat(copy).st_blocks * 512) == (1 << 30, 4096)
        assert os.lseek(copy, 0, os.SEEK_DATA) == 1 << 20
    finally:
        os.close(copy)


def test_the_digest_is_that_of_the_content_wherever_the_holes_are() -> None:
    data = b"x" * 99 * 65536
    size = len(data) + 1
    with_holes = digest_of((0, data), size=size)
    assert with_holes == digest_of((0, data + b"\0"), size=size)


def test_the_digest_tells_contents_apart() -> None:
    others = {
        digest_of(size=1 << 20),
        digest_of(size=(1 << 20) + 1),
        digest_of((0, b"x"), size=1 << 20),
        digest_of((1, b"x"), size=1 << 20),
        digest_of((65536, b"x"), size=1 << 20),
        digest_of((65536, b"x"), size=2 << 20),
        digest_of((0, b"x"), (65536, b"x"), size=1 << 20),
        digest_of(((1 << 20) - 1, b"x"), size=1 << 20),
    }
    assert len(others) == 8


def test_the_position_of_the_source_is_left_where_it_is(source: int, tmp_path: Path) -> None:
    os.write(source, b"x" * 100_000)
    os.lseek(source, 7, os.SEEK_SET)
    sparse.digest(source)
    assert os.lseek(source, 0, os.SEEK_CUR) == 7


def test_nobody_can_change_a_copy_in_memory(source: int) -> None:
    os.write(source, b"content")
    _, copy = sparse.memory_copy(source, "copy")
    try:
        everything = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        assert fcntl.fcntl(copy, fcntl.F_GET_SEALS) == everything
        assert not os.get_inheritable(copy)
        for change in (lambda: os.pwrite(copy, b"X", 0), lambda: os.ftruncate(copy, 1), lambda: os.ftruncate(copy, 9)):
            with pytest.raises(PermissionError):
                change()
        assert content(copy) == b"content"
    finally:
        os.close(copy)
