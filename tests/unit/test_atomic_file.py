"""A file that is there when it is whole, and of which nothing is left otherwise."""

import errno
import os
import signal
from pathlib import Path

import pytest

from pytest_readonly_vm.host.atomic_file import atomic_file


@pytest.fixture(params=["without a name", "with one"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the file system can hold an unfinished file without a name."""
    if request.param == "with one":
        plain = os.open

        def without(path: str, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return plain(path, flags, mode)

        monkeypatch.setattr(os, "open", without)
    return str(request.param)


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_it_takes_its_place_when_it_is_whole(tmp_path: Path, kind: str, before: bytes | None) -> None:
    path = tmp_path / "it"
    if before is not None:
        path.write_bytes(before)
        other = tmp_path / "other name"
        other.hardlink_to(path)
    with atomic_file(path, mode=0o600) as file:
        file.write(b"new")
        assert (path.read_bytes() if path.exists() else None) == before
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert before is None or other.read_bytes() == before
    assert {found.name for found in tmp_path.iterdir()} <= {"it", "other name"}


def test_nothing_is_left_of_one_that_fails(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TypeError), atomic_file(tmp_path / "it") as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_by_a_process_that_is_killed(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        with atomic_file(tmp_path / "it") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "gone" / "it"):
        pass
