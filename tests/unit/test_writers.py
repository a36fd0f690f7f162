"""Who opens a base image for writing is noticed, also if none of its times tells."""

import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.writers import times_show_writes
from pytest_readonly_vm.image.base import BaseImage, open_base
from pytest_readonly_vm.image.image_file import Fingerprint

OPENED = "was opened for writing, and may have other content"
MAP = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
    memory[0]  # a page of tmpfs that has been read is written without a word to the kernel
print("mapped", flush=True)
sys.stdin.readline()
memory[0] ^= 1
print("written", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def path(folder: Path) -> Path:
    path = folder / "base.img"
    path.write_bytes(bytes(1 << 20))
    return path


def opened(path: Path) -> BaseImage:
    return open_base(path, format="raw", origin="the test", qemu_img=Path(shutil.which("qemu-img") or ""))


@pytest.fixture
def base(path: Path) -> Iterator[BaseImage]:
    base = opened(path)
    yield base
    base.close()


def test_readers_are_no_matter(path: Path, base: BaseImage) -> None:
    with path.open("rb") as file:
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ).close()
        assert base.difference() is None
    path.read_bytes()
    assert base.difference() is None


def test_what_is_written_through_a_mapping_is_noticed(path: Path, base: BaseImage) -> None:
    before = Fingerprint.of(path.stat())
    with subprocess.Popen(
        [sys.executable, "-c", MAP, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "mapped\n"
        assert base.difference() is None
        with pytest.raises(ImageError, match="is open for writing in another process"):
            opened(path)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "written\n"
    by_times = before.difference(Fingerprint.of(path.stat()))
    assert path.read_bytes()[0] == 1
    assert base.difference() == f"{path} {by_times or 'was written (its size and times are what they were)'}"


def test_who_opens_it_and_writes_nothing_is_no_matter(path: Path, base: BaseImage) -> None:
    os.close(os.open(path, os.O_WRONLY))
    assert base.difference() is None


def test_a_large_one_that_was_opened_for_writing_is_not_trusted_where_times_do_not_tell(folder: Path) -> None:
    path = folder / "large.img"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    base = opened(path)
    assert base.difference() is None
    os.close(os.open(path, os.O_WRONLY))
    with path.open("rb") as file:
        expected = (
            None if times_show_writes(file.fileno()) else f"{path} {OPENED} (its size and times are what they were)"
        )
    assert base.difference() == base.difference() == expected
    base.close()


def test_one_before_is_no_matter(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY))
    base = opened(path)
    assert base.difference() is None
    base.close()
