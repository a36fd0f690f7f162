"""Locks among real processes: one at a time, free when their holder is dead, and never on a file that is no more."""

import contextlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from pytest_readonly_vm.host import locks
from pytest_readonly_vm.host.locks import (
    Lock,
    holder_of,
    new_locked_folder,
    remove_if_unlocked,
    try_lock,
    wait_for_lock,
)
from tests.qemu.waiting import GENEROUS
from tests.unit.programs import program, says, start_together

START = """
import os, signal, sys
from pathlib import Path
from pytest_readonly_vm.host.locks import *
path = Path(sys.argv[1])
"""
"""Of a program that is given a path."""

HOLDS = START + "lock = try_lock(path, make=0o600); lock.sign(); print('held', flush=True); sys.stdin.read()"
WAITS = (
    START
    + "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    + "print('waits', flush=True); wait_for_lock(path)"
)
"""A run in the background of a script ignores Ctrl-C and hands that down."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def taken(path: Path, *, make: int | None = 0o600, shared: bool = False) -> Lock:
    lock = try_lock(path, make=make, shared=shared)
    assert lock is not None, f"{path} is locked"
    return lock


def test_one_at_a_time_has_it(path: Path) -> None:
    with taken(path):
        assert try_lock(path) is None
    with taken(path) as lock:
        lock.release()
        with taken(path):
            lock.release()
            assert try_lock(path) is None


def test_several_share_it_and_nobody_has_it_alone_meanwhile(path: Path) -> None:
    with taken(path, shared=True), taken(path, shared=True) as second:
        assert try_lock(path) is None
        second.release()
        assert try_lock(path) is None
    with taken(path):
        assert try_lock(path, shared=True) is None


def test_a_folder_is_locked_as_a_file_is(tmp_path: Path) -> None:
    with taken(tmp_path, make=None):
        assert try_lock(tmp_path) is None


def test_nothing_is_made_unless_asked_for_and_no_link_is_followed_and_no_pipe_waited_for(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        try_lock(path)
    path.symlink_to("/dev/null")
    with pytest.raises(OSError, match="symbolic links"):
        try_lock(path, make=0o600)
    path.unlink()
    os.mkfifo(path)
    taken(path).release()


def test_a_lock_on_a_file_that_was_removed_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening and the locking of it, which only the open file could tell."""
    plain = locks._open

    def meanwhile_removed(path: Path, make: int | None) -> int:
        descriptor = plain(path, make)
        path.unlink()
        return descriptor

    monkeypatch.setattr(locks, "_open", meanwhile_removed)
    assert try_lock(path, make=0o600) is None

    def meanwhile_made_again(path: Path, make: int | None) -> int:
        descriptor = meanwhile_removed(path, make)
        path.touch()
        return descriptor

    monkeypatch.setattr(locks, "_open", meanwhile_made_again)
    assert try_lock(path, make=0o600) is None
    monkeypatch.setattr(locks, "_open", plain)
    with taken(path):
        assert path.exists()


def test_nobody_else_is_let_in_while_a_file_is_removed_and_made_again(path: Path) -> None:
    code = (
        "print('ready', flush=True); sys.stdin.readline()\n"
        "alone = path.with_name('alone')\n"
        "for _ in range(200):\n"
        "    while (lock := try_lock(path, make=0o600)) is None:\n"
        "        pass\n"
        "    alone.mkdir()\n"
        "    alone.rmdir()\n"
        "    lock.remove()\n"
    )
    with contextlib.ExitStack() as stack:
        wanting = [stack.enter_context(program(START + code, path)) for _ in range(3)]
        assert [says(process) for process in wanting] == ["ready"] * 3
        start_together(wanting)
    assert list(path.parent.iterdir()) == []


def test_who_waits_has_it_when_its_holder_is_killed(path: Path) -> None:
    with program(HOLDS, path) as holder:
        assert says(holder) == "held"
        assert holder_of(path).pid == holder.pid
        looks = 0

        def kill() -> bool:
            nonlocal looks
            looks += 1
            holder.kill()
            return False

        lock = wait_for_lock(path, patience=GENEROUS, give_up=kill)
        assert lock is not None
        assert looks
        lock.sign()
        assert holder_of(path).pid == os.getpid()
        lock.remove()
    assert holder_of(path).pid == 0


def test_one_that_stands_still_is_waited_for_as_long_as_patience_goes_and_no_longer_than_is_wanted(path: Path) -> None:
    with program(HOLDS, path) as holder:
        assert says(holder) == "held"
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        begun = time.monotonic()
        assert wait_for_lock(path, patience=0.2) is None
        assert 0.2 <= time.monotonic() - begun < GENEROUS
        assert wait_for_lock(path, give_up=lambda: True) is None
        assert not remove_if_unlocked(path)
        holder.kill()
        holder.wait()
    assert remove_if_unlocked(path)
    assert remove_if_unlocked(path)
    assert not path.exists()


def test_an_interrupt_ends_the_wait_and_leaves_no_lock(path: Path) -> None:
    code = (
        "import random\n"
        "def interrupt(number, frame):\n"
        "    raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, interrupt)\n"
        "interrupted = 0\n"
        "while interrupted < 300:\n"
        "    lock = None\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-4))\n"
        "        lock = wait_for_lock(path, make=0o600)\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    except KeyboardInterrupt:\n"
        "        interrupted += 1\n"
        "    if lock is not None:\n"
        "        lock.release()\n"
        "print('end', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with program(START + code, path) as process:
        assert says(process) == "end"
        taken(path).release()
        with taken(path), program(WAITS, path) as waiting:
            assert says(waiting) == "waits"
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(GENEROUS) != 0


def test_a_forked_child_neither_keeps_it_nor_gives_it_back(path: Path) -> None:
    code = (
        "os.setpgid(0, 0)\n"
        "lock = try_lock(path, make=0o600)\n"
        "said, says = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    lock.remove()\n"
        "    os.write(says, b'x')\n"
        "    os._exit(0)\n"
        "os.read(said, 1)\n"
        "print(try_lock(path), flush=True)\n"
        "if os.fork() == 0:\n"
        "    signal.pause()\n"
        "lock.release()\n"
        "print('released', flush=True)\n"
        "sys.stdin.read()\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    with program(START + code, path) as holder:
        try:
            assert says(holder) == "None"
            assert says(holder) == "released"
            taken(path).release()
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_a_new_folder_is_locked_whoever_sweeps(tmp_path: Path) -> None:
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            for folder in tmp_path.iterdir():
                with contextlib.suppress(OSError):
                    if (lock := try_lock(folder)) is not None:
                        shutil.rmtree(folder)
                        lock.release()

    sweeping = threading.Thread(target=sweep)
    sweeping.start()
    try:
        made = [new_locked_folder(tmp_path, prefix="half-") for _ in range(300)]
    finally:
        over.set()
        sweeping.join()
    assert {lock.path for lock in made} == set(tmp_path.iterdir())
    assert all(lock.path.stat().st_mode & 0o777 == 0o700 for lock in made)
    for lock in made:
        lock.release()
    with pytest.raises(FileNotFoundError):
        new_locked_folder(tmp_path / "nowhere")


def test_what_cannot_be_removed_is_not_gone(path: Path) -> None:
    path.mkdir()
    assert not remove_if_unlocked(path)
    with taken(path, make=None):
        pass
