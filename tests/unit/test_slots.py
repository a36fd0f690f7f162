"""The host's memory and CPUs are shared by real processes that wait, are killed, stopped, forked and interrupted."""

import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_readonly_vm import HostError
from pytest_readonly_vm.host.budget import Budget
from pytest_readonly_vm.host.slots import Slots
from tests.mount_namespace import own_mounts
from tests.processes import state_of
from tests.qemu.waiting import eventually

MIB = 1 << 20

OTHER = """
import os, signal, sys, threading
from pathlib import Path
from pytest_readonly_vm.host.budget import Budget
from pytest_readonly_vm.host.slots import Slots

def say(sentence):
    os.write(1, f"{sentence}\\n".encode())

def take(memory, cpus):
    held.append(slots.take(int(memory) << 20, int(cpus), label="web", on_wait=say))
    say("taken")

signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs us may have had ignored
folder, memory, cpus = sys.argv[1:]
slots = Slots(Path(folder), Budget(int(memory) << 20, int(cpus)))
held = []
for line in sys.stdin:
    command, *words = line.split()
    try:
        if command == "take":
            take(*words)
        elif command == "thread":
            threading.Thread(target=take, args=words).start()
        elif command == "release":
            held.pop().release()
            say("released")
        elif command == "fork":
            if os.fork() == 0:
                held.pop().release()  # not its own, so nothing happens
                sys.stdin.read()
                os._exit(0)
            say("forked")
    except KeyboardInterrupt:
        say("interrupted")
"""


class Other:
    """Another pytest process of the same user, told line by line what to do."""

    def __init__(self, folder: Path, memory: int, cpus: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, folder, str(memory), str(cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def told(self, command: str) -> str:
        """What it says when told."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        return self.says()

    def says(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "it says nothing"
        return self.process.stdout.readline().decode().strip()

    @property
    def is_silent(self) -> bool:
        """Whether it says nothing for longer than any change takes to be noticed."""
        assert self.process.stdout is not None
        return not select.select([self.process.stdout], [], [], 0.3)[0]

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "slots"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def other(folder: Path) -> Iterator[Callable[..., Other]]:
    """Start another process, with a budget of 1024 MiB and 8 CPUs unless told otherwise."""
    with ExitStack() as stack:

        def start(memory: int = 1024, cpus: int = 8) -> Other:
            process = Other(folder, memory, cpus)
            stack.callback(process.end)
            return process

        yield start


@pytest.fixture
def slots(folder: Path) -> Slots:
    return Slots(folder, Budget(1024 * MIB, 8))


def never(sentence: str) -> None:
    raise AssertionError(f"it had to wait: {sentence}")


def test_what_fits_is_taken_at_once_and_leaves_nothing(slots: Slots, folder: Path, other: Callable[..., Other]) -> None:
    holder = other()
    assert holder.told("take 512 4") == "taken"
    with slots.take(512 * MIB, 4, label="db", on_wait=never):
        assert len(list(folder.iterdir())) == 2
    assert holder.told("release") == "released"
    assert holder.told("take 1024 8") == "taken"
    assert len(list(folder.iterdir())) == 1


def test_what_does_not_fit_waits_and_says_for_whom(other: Callable[..., Other]) -> None:
    one, two, third = other(), other(), other()
    assert one.told("take 512 1") == one.told("take 256 1") == two.told("take 128 2") == "taken"
    holders = {one.process.pid: 768, two.process.pid: 128}
    told = ", ".join(f"{pid} ({size} MiB)" for pid, size in sorted(holders.items()))
    assert third.told("take 256 1") == (
        f"web: waiting for 256 MiB and 1 CPU: 896 of 1024 MiB and 4 of 8 CPUs are in use by pytest processes {told}"
    )
    assert third.is_silent
    assert two.told("release") == "released"
    assert third.says() == "taken"


def test_cpus_are_counted_too(other: Callable[..., Other]) -> None:
    holder, waiter = other(), other()
    assert holder.told("take 1 7") == "taken"
    assert waiter.told("take 1 2").startswith("web: waiting for 1 MiB and 2 CPUs: 1 of 1024 MiB and 7 of 8 CPUs are")
    assert holder.told("release") == "released"
    assert waiter.says() == "taken"


def test_a_killed_process_has_nothing_any_more(folder: Path, other: Callable[..., Other]) -> None:
    holder, waiter = other(), other()
    assert holder.told("take 512 1") == holder.told("take 512 1") == "taken"
    assert "(1024 MiB)" in waiter.told("take 1024 1")
    holder.process.kill()
    assert waiter.says() == "taken"
    assert len(list(folder.iterdir())) == 1, "what the killed process left was not removed"


def test_a_small_request_does_not_overtake_a_big_one(slots: Slots, other: Callable[..., Other]) -> None:
    holder, big, small = other(), other(), other()
    assert holder.told("take 768 1") == "taken"
    assert big.told("take 1024 1").endswith("(768 MiB)")
    assert small.told("take 128 1").endswith("(768 MiB); 1 asked before")
    assert small.is_silent
    assert slots.take_spare(128 * MIB, 1) is None
    assert holder.told("release") == "released"
    assert big.says() == "taken"
    assert small.is_silent
    assert big.told("release") == "released"
    assert small.says() == "taken"


def test_the_place_in_the_queue_of_a_killed_process_is_free(other: Callable[..., Other]) -> None:
    holder, big, small = other(), other(), other()
    assert holder.told("take 768 1") == "taken"
    big.told("take 512 1")
    small.told("take 128 1")
    big.process.kill()
    assert small.says() == "taken"


def test_nobody_waits_behind_a_stopped_process(folder: Path, other: Callable[..., Other]) -> None:
    holder, big, small = other(), other(), other()
    assert holder.told("take 768 1") == "taken"
    big.told("take 512 1")
    small.told("take 128 1")
    big.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, big.process.pid, os.WSTOPPED)
    (request,) = folder.glob(f"*.{big.process.pid}.*.waiting")
    os.utime(request, (0, 0))  # as it is a long time later
    assert small.says() == "taken"
    assert holder.told("release") == "released"
    big.process.send_signal(signal.SIGCONT)
    assert big.says() == "taken"


def test_who_waits_for_one_that_is_stopped_is_told_and_has_its_turn_when_that_goes_on(
    other: Callable[..., Other],
) -> None:
    """Its machines run on and need their memory, so nobody may have it; but somebody should know whom to wake."""
    holder, waiter = other(), other()
    assert holder.told("take 768 1") == "taken"
    waiting = waiter.told("take 512 1")
    assert waiting.endswith(f"in use by pytest process {holder.process.pid} (768 MiB)")
    holder.process.send_signal(signal.SIGSTOP)
    assert waiter.says() == waiting.replace("(768 MiB)", "(768 MiB; it is stopped)")
    assert waiter.is_silent
    holder.process.send_signal(signal.SIGCONT)
    assert holder.told("release") == "released"
    assert waiter.says() == "taken"


def test_one_that_was_stopped_in_the_midst_of_looking_stops_nobody(folder: Path, other: Callable[..., Other]) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert other().told("take 1024 1") == "taken"
    finally:
        os.close(descriptor)


def test_a_process_that_has_a_machine_gets_more_without_waiting(other: Callable[..., Other]) -> None:
    one, two = other(), other()
    assert one.told("take 512 1") == two.told("take 512 1") == "taken"
    assert one.told("take 512 1") == two.told("take 512 1") == "taken"


def test_threads_of_a_process_wait_together(other: Callable[..., Other]) -> None:
    holder, waiter = other(), other()
    assert holder.told("take 1024 1") == "taken"
    assert all("waiting" in waiter.told("thread 1024 1") for _ in range(3))
    assert holder.told("release") == "released"
    assert [waiter.says() for _ in range(3)] == ["taken"] * 3


def test_more_than_the_whole_budget_is_given_to_one_that_is_alone(slots: Slots, other: Callable[..., Other]) -> None:
    holder, waiter = other(), other()
    assert slots.take_spare(1025 * MIB, 1) is None
    assert holder.told("take 4096 64") == "taken"
    assert waiter.told("take 2048 1").startswith("web: waiting for 2048 MiB and 1 CPU: 4096 of 1024 MiB and 64 of 8")
    assert holder.told("release") == "released"
    assert waiter.says() == "taken"


def test_each_process_goes_by_its_own_budget(other: Callable[..., Other]) -> None:
    one, modest, two = other(), other(memory=512), other(memory=2048)
    assert one.told("take 384 1") == two.told("take 1024 1") == "taken"
    assert "1408 of 512 MiB" in modest.told("take 256 1")
    assert two.told("release") == "released"
    assert modest.is_silent
    assert one.told("release") == "released"
    assert modest.says() == "taken"


def test_a_spare_is_taken_only_from_what_is_free(slots: Slots, folder: Path, other: Callable[..., Other]) -> None:
    with slots.take(512 * MIB, 1, label="db", on_wait=never):
        assert slots.take_spare(513 * MIB, 1) is None
        assert slots.take_spare(512 * MIB, 8) is None
        spare = slots.take_spare(512 * MIB, 1)
        assert spare
        waiter = other()
        assert f"by pytest process {os.getpid()} (1024 MiB)" in waiter.told("take 512 1")
        spare.release()
        spare.release()
        assert waiter.says() == "taken"
    waiter.end()
    assert slots.take_spare(1024 * MIB, 8)
    assert len(list(folder.iterdir())) == 1


def test_an_interrupt_takes_the_request_back(folder: Path, other: Callable[..., Other]) -> None:
    holder, waiter = other(), other()
    assert holder.told("take 1024 1") == "taken"
    waiter.told("take 1024 1")
    # In the midst of its own print, the interrupt would cost it its next words.
    eventually(lambda: state_of(waiter.process.pid) == "S", "it waits, and does not print any more")
    waiter.process.send_signal(signal.SIGINT)
    assert waiter.says() == "interrupted"
    assert [path.suffix for path in folder.iterdir()] == [".held"]
    assert holder.told("release") == "released"
    assert waiter.told("take 1024 1") == "taken"


def test_so_does_what_the_listener_raises(slots: Slots, folder: Path, other: Callable[..., Other]) -> None:
    assert other().told("take 1024 1") == "taken"
    with pytest.raises(AssertionError, match="it had to wait: db: waiting for 1 MiB"):
        slots.take(1 * MIB, 1, label="db", on_wait=never)
    assert [path.suffix for path in folder.iterdir()] == [".held"]


def test_interrupts_at_any_moment_stop_nobody_else(slots: Slots, folder: Path) -> None:
    code = (
        "import random, signal, sys\n"
        "from pathlib import Path\n"
        "from pytest_readonly_vm.host.budget import Budget\n"
        "from pytest_readonly_vm.host.slots import Slots\n"
        "def interrupt(number, frame):\n"
        "    raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, interrupt)\n"
        "slots = Slots(Path(sys.argv[1]), Budget(1, 1))\n"
        "interrupted = 0\n"
        "while interrupted < 300:\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 2e-4))\n"
        "        slots.take(1, 1, label='', on_wait=print)\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    except KeyboardInterrupt:\n"
        "        interrupted += 1\n"
        "    for path in Path(sys.argv[1]).glob('*.held'):\n"
        "        path.unlink()\n"
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "print('end', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"end\n"
            slots.take(1024 * MIB, 8, label="db", on_wait=never).release()
            assert list(folder.iterdir()) == []
        finally:
            process.kill()


def test_a_forked_child_does_not_keep_what_its_killed_parent_had(folder: Path, other: Callable[..., Other]) -> None:
    holder, waiter = other(), other()
    assert holder.told("take 1024 1") == "taken"
    assert holder.told("fork") == "forked"
    assert "(1024 MiB)" in waiter.told("take 1024 1")
    assert waiter.is_silent
    holder.process.kill()
    assert waiter.says() == "taken"


def test_a_program_that_it_started_does_not_either(slots: Slots, folder: Path, other: Callable[..., Other]) -> None:
    with slots.take(1 * MIB, 1, label="db", on_wait=never):
        done = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, check=True
        )
    assert str(folder) not in done.stdout


def test_foreign_and_damaged_files_are_passed_over(slots: Slots, folder: Path) -> None:
    foreign = ("README", "1.2.3.held", "1.2.-3.4.held", "1.2.x.4.held", "1.2.3.4.dead", "١.2.3.4.held", "\udcff.held")
    for name in foreign:
        (folder / name).write_text("not ours")
    (folder / "1.2.99999999999.4.held").mkdir()
    (folder / "2.2.99999999999.4.held").symlink_to("/dev/null")
    (folder / "3.2.99999999999.4.held").symlink_to("nothing")
    left = set(folder.iterdir())
    (folder / "4.2.99999999999.4.held").touch()  # of a dead process, as nobody has it locked
    (folder / "5.2.99999999999.4.waiting").touch()
    slots.take(1024 * MIB, 8, label="db", on_wait=never).release()
    assert set(folder.iterdir()) == left


def test_a_folder_that_is_gone_is_named(slots: Slots, folder: Path) -> None:
    slot = slots.take(1 * MIB, 1, label="db", on_wait=never)
    shutil.rmtree(folder)
    slot.release()
    complaint = f"{re.escape(str(folder))} cannot be used to share .* No such file"
    with pytest.raises(HostError, match=complaint):
        slots.take(1 * MIB, 1, label="db", on_wait=never)
    with pytest.raises(HostError, match=complaint):
        slots.take_spare(1 * MIB, 1)


def test_a_full_disk_is_told(folder: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_readonly_vm.host.budget import Budget\n"
        "from pytest_readonly_vm.host.slots import Slots\n"
        "Slots(Path(sys.argv[1]), Budget(1, 1)).take(1, 1, label='db', on_wait=print)\n"
    )
    mounted = 'mount -t tmpfs -o nr_inodes=1 slots "$1" && shift && exec "$@"'
    argv = [*own_mounts(), "sh", "-c", mounted, "sh", str(folder), sys.executable, "-c", code, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "HostError" in done.stderr.splitlines()[-1]
    assert "No space left on device" in done.stderr.splitlines()[-1]


def test_many_processes_never_have_more_than_there_is(folder: Path, tmp_path: Path) -> None:
    code = (
        "import random, sys\n"
        "from pathlib import Path\n"
        "from pytest_readonly_vm.host.budget import Budget\n"
        "from pytest_readonly_vm.host.slots import Slots\n"
        "folder, inside = map(Path, sys.argv[1:])\n"
        "slots = Slots(folder, Budget(3, 100))\n"
        "for _ in range(15):\n"
        "    with slots.take(random.choice([2, 3]), 1, label='', on_wait=lambda sentence: None):\n"
        "        inside.touch(exist_ok=False)\n"
        "        inside.unlink()\n"
    )
    argv = [sys.executable, "-c", code, str(folder), str(tmp_path / "inside")]
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(argv)) for _ in range(5)]
        for process in processes:
            stack.callback(process.kill)
        assert [process.wait(120) for process in processes] == [0] * 5
    assert list(folder.iterdir()) == []


def test_the_budget_of_this_host() -> None:
    budget = Budget.of_host()
    assert 0 < budget.memory < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 <= budget.cpus <= 4 * len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        pytest.param(
            "0::/user.slice/run.scope",
            {
                "user.slice/run.scope/memory.max": "max",
                "user.slice/memory.max": "104857600",
                "memory.max": "209715200",
                "user.slice/run.scope/cpu.max": "50000 100000",
                "user.slice/cpu.max": "max 100000",
            },
            id="version 2, a limit above the own group",
        ),
        pytest.param(
            "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/",
            {
                "memory/memory.limit_in_bytes": "104857600",
                "cpu/cpu.cfs_quota_us": "5000",
                "cpu/cpu.cfs_period_us": "10000",
            },
            id="version 1, a container that sees its group as the top",
        ),
    ],
)
def test_limits_of_control_groups_bind(tmp_path: Path, groups: str, files: dict[str, str]) -> None:
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert Budget.of_host(tmp_path) == Budget(memory=83886080, cpus=2)


def test_control_groups_without_limits_do_not_bind(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/\n3:cpu:/\n2:name=systemd:/\n0::/\n")
    for name, text in {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"}.items():
        (tmp_path / "sys/fs/cgroup" / name).parent.mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup" / name).write_text(text)
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert Budget.of_host(tmp_path) == Budget(int(there_is * 0.8), 4 * len(os.sched_getaffinity(0)))
