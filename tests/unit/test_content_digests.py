"""What tells one state of a file or folder from another."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm.image.contents import ContentDigests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "below" / "empty").mkdir(parents=True)
    (folder / "below" / "file").write_text("content")
    (folder / "script").write_text("echo")
    (folder / "link").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    return folder


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "another content of the same length": lambda folder: (folder / "below" / "file").write_text("CONTENT"),
    "another name": lambda folder: (folder / "script").rename(folder / "program"),
    "another place": lambda folder: (folder / "script").rename(folder / "below" / "script"),
    "executable": lambda folder: (folder / "script").chmod(0o755),
    "a folder's mode": lambda folder: (folder / "below").chmod(0o700),
    "its own mode": lambda folder: folder.chmod(0o700),
    "a link to elsewhere": lambda folder: replaced(folder / "link", lambda link: link.symlink_to("other")),
    "one file more": lambda folder: (folder / "below" / "more").touch(),
    "one folder less": lambda folder: (folder / "below" / "empty").rmdir(),
    "a file for a pipe": lambda folder: replaced(folder / "fifo", Path.touch),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_has_another_digest(folder: Path, change: str) -> None:
    contents = ContentDigests()
    before = contents.digest(str(folder))
    CHANGES[change](folder)
    assert contents.digest(str(folder)) != before


def test_times_make_no_difference(folder: Path) -> None:
    before = ContentDigests().digest(str(folder))
    os.utime(folder / "script", (1, 1))
    os.utime(folder, (1, 1))
    assert ContentDigests().digest(str(folder)) == before


def test_a_link_that_is_named_is_followed(folder: Path, tmp_path: Path) -> None:
    contents = ContentDigests()
    (tmp_path / "link").symlink_to(folder / "script")
    assert contents.digest(str(tmp_path / "link")) == contents.digest(str(folder / "script"))


def test_a_large_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    file, contents = tmp_path / "large", ContentDigests()
    file.write_bytes(bytes(3 << 20))
    digests = set()
    for byte in range(4):
        with file.open("r+b") as opened:
            opened.write(bytes([byte]))
        os.utime(file, (1, 1))  # as something that keeps times would
        digests.add(contents.digest(str(file)))
    assert len(digests) == 4


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ContentDigests().digest(str(tmp_path / "nothing"))
