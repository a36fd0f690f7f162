"""A run's folder is private, goes with the run, and is swept by the next run when the run could not."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_readonly_vm import HostError
from pytest_readonly_vm.host.workspace import Workspace


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"pytest-readonly-vm-{os.getuid()}"


def test_it_is_private_and_goes_with_the_run(place: Path) -> None:
    with Workspace() as run:
        folder = run.machine_folder(1)
        assert [path.stat().st_mode & 0o777 for path in (place, run.path, folder)] == [0o700] * 3
        (folder / "console.log").write_text("x")
    assert list(place.iterdir()) == []


def test_a_living_runs_folder_is_left_alone(place: Path) -> None:
    with Workspace() as one, Workspace() as other:
        assert {one.path, other.path} == set(place.iterdir())


def test_what_a_killed_run_left_is_swept_with_the_processes_that_carry_its_cookie(place: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from pytest_readonly_vm.host.workspace import COOKIE, Workspace\n"
        "run = Workspace()\n"
        "run.machine_folder(1)\n"
        "child = subprocess.Popen(['sleep', '600'], env={**os.environ, COOKIE: str(run.path)})\n"
        "print(child.pid, run.path, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dead:
        assert dead.stdout is not None
        pid, path = dead.stdout.readline().decode().split()
        orphan = os.pidfd_open(int(pid))
        # The kernel tells of an exec a moment before it shows the new environment.
        while not Path(f"/proc/{pid}/environ").read_bytes():
            time.sleep(0.01)
        dead.kill()
    try:
        with Workspace():
            assert not Path(path).exists()
        assert select.select([orphan], [], [], 5)[0], "the process that carried the cookie still runs"
    finally:
        os.close(orphan)


def test_a_folder_that_others_may_enter_is_refused(place: Path) -> None:
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    with pytest.raises(HostError, match="is not a folder that only you can use"):
        Workspace()


def test_a_link_in_the_place_of_the_folder_is_refused(place: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    place.symlink_to(elsewhere)
    with pytest.raises(HostError, match="is not a folder that only you can use"):
        Workspace()


def test_a_place_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    with pytest.raises(HostError, match=r"/nonexistent.*use --vm-tmpdir=DIR"):
        Workspace()
