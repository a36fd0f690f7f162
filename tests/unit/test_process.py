"""Processes die with us, speak to the end, and end when told: with real processes."""

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_readonly_vm import GuestDied
from pytest_readonly_vm.host import confinement
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process, Spawner, ending
from pytest_readonly_vm.host.tool import run_tool
from tests.qemu.waiting import GENEROUS, eventually


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with ExitStack() as stack:
        thread = LoopThread()
        stack.callback(thread.close)
        yield thread


@pytest.fixture
def spawner(loop: LoopThread) -> Iterator[Spawner]:
    with ExitStack() as stack:
        started = Spawner(loop)
        stack.callback(started.close)
        yield started


def start(spawner: Spawner, *argv: str) -> Process:
    return spawner.start(argv, name="it", env=os.environ, pass_fds=(), ruleset=None)


def test_its_end_and_last_words_are_told(spawner: Spawner, loop: LoopThread) -> None:
    process = start(spawner, "sh", "-c", "echo first >&2; echo 'no such luck' >&2; exit 3")
    assert loop.run(process.ended()) == 3
    assert process.returncode == 3
    assert process.verdict() == "exited with status 3: no such luck"
    assert process.stderr() == "first\nno such luck\n"


def test_a_signal_is_called_by_its_name() -> None:
    assert ending(-11) == "was killed by SIGSEGV"
    assert ending(-200) == "was killed by signal 200"
    assert ending(0) == "exited with status 0"


def test_whoever_waits_hears_of_the_death_at_once(spawner: Spawner, loop: LoopThread) -> None:
    process = start(spawner, "sleep", "600")
    process.witnesses.append(lambda error: f"seen of {error}")

    async def wait_for_ever() -> None:
        loop.loop.call_soon(process.signal, signal.SIGKILL)
        await process.race(loop.loop.create_future())

    with pytest.raises(GuestDied, match="it: QEMU was killed by SIGKILL") as death:
        loop.run(wait_for_ever())
    assert death.value.__notes__ == ["seen of it: QEMU was killed by SIGKILL"]


def test_a_flood_on_stderr_neither_blocks_it_nor_fills_memory(spawner: Spawner, loop: LoopThread) -> None:
    process = start(spawner, "sh", "-c", "yes | head -c 5000000 >&2; echo end >&2")
    assert loop.run(process.ended()) == 0
    assert process.stderr().endswith("y\nend\n")
    assert len(process.stderr()) == 256 * 1024


def test_one_that_ignores_sigterm_is_killed(spawner: Spawner, loop: LoopThread) -> None:
    process = start(spawner, "sh", "-c", "trap '' TERM; echo ready >&2; while :; do sleep 600; done")
    eventually(process.stderr, "it is ready")
    loop.run(process.end())
    assert process.verdict().startswith("was killed by SIGKILL")


def test_its_children_end_with_it(spawner: Spawner, loop: LoopThread) -> None:
    process = start(spawner, "sh", "-c", "sleep 600 & echo $! >&2; wait")
    eventually(lambda: process.stderr().endswith("\n"), "it has a child")
    child = os.pidfd_open(int(process.stderr()))
    try:
        process.kill()
        assert select.select([child], [], [], GENEROUS)[0], "the child survived"
    finally:
        os.close(child)


def test_closing_the_spawner_ends_what_was_forgotten(loop: LoopThread) -> None:
    spawner = Spawner(loop)
    process = start(spawner, "sleep", "600")
    spawner.close()
    assert process.returncode == -signal.SIGKILL


def test_what_cannot_be_started_says_so(spawner: Spawner) -> None:
    with pytest.raises(FileNotFoundError):
        start(spawner, "/nonexistent/qemu")
    with pytest.raises(OSError, match=r"before its start failed: .*Landlock: Bad file descriptor \(EBADF\)"):
        spawner.start(("true",), name="it", env={}, pass_fds=(), ruleset=2**20)


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("qemu: no disk\nwarning: fd: migration to a file is deprecated. Use file: instead.", ": qemu: no disk"),
        ("qemu-system-x86_64: -mon chardev=m: warning: '-mon' is deprecated", ""),
        ("(qemu:1): GLib-WARNING **: 10:00:00.000: odd\nqemu-system-x86_64: info: fine", ""),
        ("qemu: could not load the early-warning: ROM", ": qemu: could not load the early-warning: ROM"),
    ],
)
def test_a_warning_is_not_told_as_the_cause(spawner: Spawner, loop: LoopThread, stderr: str, reason: str) -> None:
    process = start(spawner, "sh", "-c", 'printf "%s\n" "$1" >&2; exit 1', "sh", stderr)
    loop.run(process.ended())
    assert process.verdict() == f"exited with status 1{reason}"
    assert stderr in process.stderr()


def test_one_that_cannot_be_watched_is_ended(spawner: Spawner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when no descriptor is left, or the kernel has no such call."""
    pid = tmp_path / "pid"

    def refused(started: int, *_: object) -> int:
        pid.write_text(str(started))
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", refused)
        with pytest.raises(OSError, match="Too many open files"):
            start(spawner, "sleep", "600")
    with pytest.raises(ProcessLookupError):  # neither alive nor a zombie
        os.kill(int(pid.read_text()), 0)


def test_one_that_the_loop_cannot_watch_is_ended(
    spawner: Spawner, loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(loop.loop, "add_reader", refused)
    process = start(spawner, "sleep", "600")
    assert loop.run(process.wait_ended(10))
    assert process.verdict().startswith("was killed by SIGKILL: ended, as it cannot be watched: ")


def test_none_is_started_without_its_leash(spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses a request that it does not know, as a sandbox around us may refuse this one."""
    monkeypatch.setattr(confinement, "_PR_SET_PDEATHSIG", 10_000)
    with pytest.raises(OSError, match=r"before its start failed: .*prctl\(PR_SET_PDEATHSIG\): Invalid argument"):
        start(spawner, "true")
    with pytest.raises(OSError, match=r"before its start failed: .*prctl\(PR_SET_PDEATHSIG\): Invalid argument"):
        run_tool(["true"], timeout=10)


def test_a_process_dies_when_its_starter_is_killed() -> None:
    code = (
        "import os, sys\n"
        "from pytest_readonly_vm.host.loop import LoopThread\n"
        "from pytest_readonly_vm.host.process import Spawner\n"
        "spawner = Spawner(LoopThread())\n"
        "process = spawner.start(['sleep', '600'], name='', env={}, pass_fds=(), ruleset=None)\n"
        "print(process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        child = os.pidfd_open(int(starter.stdout.readline()))
        starter.kill()
    try:
        assert select.select([child], [], [], GENEROUS)[0], "the child outlived its parent"
    finally:
        os.close(child)


def test_a_tool_that_hangs_is_killed_at_its_deadline() -> None:
    done = run_tool(["sh", "-c", "echo said; exec sleep 600"], timeout=3)
    assert done.returncode is None
    assert done.stdout == "said\n"


def test_a_blocking_call_on_the_loops_own_thread_is_refused(loop: LoopThread) -> None:
    async def inner() -> None:
        pass

    async def outer() -> None:
        loop.run(inner())

    with pytest.raises(RuntimeError, match="cannot make blocking calls"):
        loop.run(outer())
