"""One process builds what several want, and those that wait for it say so, and do not do so without end."""

import errno
import fcntl
import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_readonly_vm.host import locks as module
from pytest_readonly_vm.host.budget import Budget
from pytest_readonly_vm.host.locks import build_lock
from pytest_readonly_vm.host.slots import Slots
from pytest_readonly_vm.qemu import resources
from pytest_readonly_vm.start.archive import Archive
from pytest_readonly_vm.start.cache import TemplateCache
from tests.unit.programs import program, says

BUILDS = (
    "import pathlib, sys\n"
    "from pytest_readonly_vm.host.locks import build_lock\n"
    "with build_lock(pathlib.Path(sys.argv[1]), 'it', on_wait=print, patience=60):\n"
    "    print('builds', flush=True); sys.stdin.read()"
)

HAS_ROOM = (
    "import pathlib, sys\n"
    "from pytest_readonly_vm.host.budget import Budget\n"
    "from pytest_readonly_vm.host.slots import Slots\n"
    "with Slots(pathlib.Path(sys.argv[1]), Budget(1, 1)).take(1, 1, label='a', on_wait=print):\n"
    "    print('has room', flush=True); sys.stdin.read()"
)
WAITS_FOR_ROOM = (
    "import pathlib, sys\n"
    "from pytest_readonly_vm.host.budget import Budget\n"
    "from pytest_readonly_vm.host.locks import build_lock\n"
    "from pytest_readonly_vm.host.slots import Slots\n"
    "with build_lock(pathlib.Path(sys.argv[2]), 'it', on_wait=print, patience=60):\n"
    "    tell = lambda sentence: print(sentence, flush=True)\n"
    "    Slots(pathlib.Path(sys.argv[1]), Budget(1, 1)).take(1, 1, label='b', on_wait=tell)"
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


@pytest.mark.parametrize(("has", "goes_on"), [("room", True), ("a build", True), ("nothing", False)])
def test_one_that_waits_for_room_is_not_waited_for_by_who_may_be_in_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: str, goes_on: bool
) -> None:
    """Else each would wait for the other, or for one that waits for it."""
    monkeypatch.setattr(module, "_STOPPED", 0.2)
    monkeypatch.setattr(resources, "_PLACE", tmp_path)
    folder, cache = tmp_path / f"pytest-readonly-vm-{os.getuid()}.slots", tmp_path / "cache"
    told: list[str] = []
    archive = Archive(TemplateCache(cache, limit=1), told.append)
    folder.mkdir()
    with ExitStack() as opened:
        # Of room there is some for one.
        if has == "room":
            opened.enter_context(Slots(folder, Budget(1, 1)).take(1, 1, label="ours", on_wait=pytest.fail))
        else:
            assert says(opened.enter_context(program(HAS_ROOM, folder))) == "has room"
        if has == "a build":
            assert opened.enter_context(archive.lock("another", patience=60))
        builder = opened.enter_context(program(WAITS_FOR_ROOM, folder, cache / "key.lock"))
        assert says(builder).startswith("b: waiting for 0 MiB and 1 CPU")
        with archive.lock("key", patience=60 if goes_on else 0.5) as is_ours:
            assert not is_ours
    why = r"waits for room, maybe for that of this process" if goes_on else r"has been at it for \d+ s"
    assert re.fullmatch(rf"process {builder.pid} {why}: going on without the frozen guest key", told[-1])


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
