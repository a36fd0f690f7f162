"""One process builds what several want, and those that wait for it say so, and do not do so without end."""

import errno
import fcntl
import os
import re
import signal
from pathlib import Path

import pytest

from pytest_readonly_vm.host import locks as module
from pytest_readonly_vm.host.locks import build_lock
from tests.unit.programs import program, says

BUILDS = (
    "import pathlib, sys\n"
    "from pytest_readonly_vm.host.locks import build_lock\n"
    "with build_lock(pathlib.Path(sys.argv[1]), 'it', on_wait=print, patience=60):\n"
    "    print('builds', flush=True); sys.stdin.read()"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.mark.parametrize(("number", "patience"), [(signal.SIGSTOP, 60), (0, 0.2)], ids=["stopped", "at a breakpoint"])
def test_one_that_stands_still_is_not_waited_for_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, patience: float
) -> None:
    monkeypatch.setattr(module, "_STOPPED", 0.2)
    told: list[str] = []
    with program(BUILDS, path) as builder:
        assert says(builder) == "builds"
        try:
            builder.send_signal(number)
            with build_lock(path, "it", on_wait=told.append, patience=patience) as is_ours:
                assert not is_ours
        finally:
            builder.kill()
    assert told[0].startswith(f"waiting for process {builder.pid}, which has been making it for ")
    state = "is stopped, by Ctrl-Z or a debugger" if number else r"has been at it for \d+ s"
    assert re.fullmatch(rf"process {builder.pid} {state}: going on without it", told[1])
    with build_lock(path, "it", on_wait=pytest.fail, patience=60) as is_ours:
        assert is_ours


def test_who_waits_is_told_once_and_builds_when_the_other_is_killed(path: Path) -> None:
    told = []
    with program(BUILDS, path) as builder:
        assert says(builder) == "builds"
        with build_lock(path.with_name("another"), "another", on_wait=pytest.fail, patience=60) as is_ours:
            assert is_ours

        def kill(sentence: str) -> None:
            told.append(sentence)
            builder.kill()

        with build_lock(path, "it", on_wait=kill, patience=60) as is_ours:
            assert is_ours
            [sentence] = told
            assert re.fullmatch(rf"waiting for process {builder.pid}, which has been making it for \d+ s", sentence)
            with build_lock(path, "it", on_wait=told.append, patience=0) as is_ours_too:
                assert not is_ours_too
            assert f"process {os.getpid()}" in told[-1]
    assert list(path.parent.iterdir()) == []


def test_where_there_are_no_locks_nobody_is_kept_from_building(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    for place in (path, path / "nowhere"):
        with build_lock(place, "it", on_wait=pytest.fail, patience=60) as is_ours:
            assert is_ours
