"""What commands and files promise over each channel, whatever a guest does to its own disks and folders."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_readonly_vm import ChannelError, CommandTimeout, Lab, TransferError, VirtualMachine
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.channels import DEBIANS, GROUPS, config, ended_by_its_limit, machine
from tests.qemu.waiting import GENEROUS

on_a_disk = pytest.mark.parametrize("vm", DEBIANS, indirect=True, scope="module")
"""For tests of what the tiny guest lacks: its root is memory, and its programs are one, which needs no files."""

# Those who run it are the script's shell, the one that waits for its end, and the one that reads our lines.
RESIDENT = "read -r _ _ _ p _ </proc/self/stat; read -r _ _ _ r _ </proc/$p/stat; echo $r"

_MOUNTED = "for d in /var/tmp /tmp /run /dev/shm; do [ ! -d $d ] || {} $d || exit; done"
INSULTS = {
    "folders": (
        "rm -rf /var/tmp/* /var/tmp/.[!.]* /tmp/* /tmp/.[!.]*; mkdir -p /var/tmp; mv /var/tmp /var/old;"
        "mkdir -m 1777 /var/tmp; " + _MOUNTED.format("mount -t tmpfs none"),
        _MOUNTED.format("umount"),
    ),
    "/dev/null": ("rm /dev/null", "rm -f /dev/null; mknod -m 666 /dev/null c 1 3"),
}
"""What is done to a guest, and how it is undone."""

FULL = (
    "fallocate -l $(df --output=avail -B 1 / | tail -n 1) /filler; dd if=/dev/zero of=/rest bs=4k; [ -e /rest ]",
    "rm /filler /rest",
)
"""How the disk is filled to the last block, and how it is given back."""

DELETED = (
    "rm -rf --no-preserve-root /dev /etc /home /root /run /srv /tmp /var 2>&1 | tail -n 1; mount -t tmpfs none /usr"
)
"""As if all had been deleted, in a second and not in twenty: the programs are below /usr only."""

MANY = 70
"""Commands: more than leave their files in the guest before these are removed, as they are also after much output."""

READ_ONLY = "echo u >/proc/sysrq-trigger; until grep -q '^/dev[^ ]* / [^ ]* ro' /proc/mounts; do sleep 0.1; done"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module", params=GROUPS)
def vm(lab: Lab, request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    vm = machine(lab, request.param)
    yield vm
    vm.close()


def holds(vm: VirtualMachine) -> None:
    """What a command and a file are to be, at any time."""
    failed = vm.run("echo out; echo err >&2; exit 5", check=False)
    assert (failed.exit_code, failed.stdout, failed.stderr) == (5, "out\n", "err\n")
    assert vm.run("seq 30000").stdout == "".join(f"{number}\n" for number in range(1, 30001))
    data = os.urandom(300_000)
    assert vm.run("sha256sum", input=data).stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert vm.run(f"x={'x' * 20_000}; echo ${{#x}}").stdout == "20000\n"
    assert vm.read_text("/proc/version").startswith("Linux")
    assert vm.wait_until_succeeds("echo yes", timeout=GENEROUS).stdout == "yes\n"


@pytest.mark.parametrize("insult", INSULTS)
def test_a_command_is_a_command_whatever_befalls_the_folders_of_the_guest(vm: VirtualMachine, insult: str) -> None:
    do, undo = INSULTS[insult]
    vm.write_text("/root/before", "kept")
    assert vm.run(f"{{ {do}; }} && echo done").stdout == "done\n"
    try:
        holds(vm)
        assert vm.read_text("/root/before") == "kept"
        assert ended_by_its_limit(vm, "echo early; sleep 600", stdout="early\n").stdout == "early\n"
    finally:
        vm.run(undo)


@pytest.mark.parametrize("channel", ["agent", "auto", "ssh"])
def test_a_guest_without_a_disk_to_write_to(lab: Lab, channel: str, tmp_path: Path) -> None:
    vm = machine(lab, f"debian-{channel}-clone")
    vm.run(READ_ONLY, timeout=GENEROUS)
    assert vm.run("touch /root/new", check=False).stderr.endswith("Read-only file system\n")
    holds(vm)
    with pytest.raises(TransferError, match="Read-only file system"):
        vm.write_bytes("/root/new", bytes(100_000))
    vm.pull("/etc/apt", tmp_path)
    assert (tmp_path / "sources.list.d").is_dir()
    vm.close()


def test_a_long_command_keeps_its_output_whatever_runs_beside_it(vm: VirtualMachine) -> None:
    beside = ["true"] * MANY if vm.name.startswith("tiny") else ["true", f"head -c {2 << 20} /dev/zero", "true"]
    vm.run("rm -f /tmp/go")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(vm.run, "echo hello; until [ -e /tmp/go ]; do sleep 0.1; done; echo bye", timeout=GENEROUS)
        for command in beside:
            vm.run(command)
        vm.run("touch /tmp/go")
        assert long.result().stdout == "hello\nbye\n"


def test_several_that_print_much_get_what_is_theirs(vm: VirtualMachine) -> None:
    with ThreadPoolExecutor(6) as pool:
        runs = {begin: pool.submit(vm.run, f"seq {begin} 50000") for begin in range(1, 7)}
    for begin, done in runs.items():
        assert done.result().stdout == "".join(f"{number}\n" for number in range(begin, 50_001))


def test_what_is_typed_to_a_shell_that_stands_still_arrives_once(vm: VirtualMachine) -> None:
    resident = vm.run(RESIDENT).stdout.strip()
    texts = [os.urandom(6000).hex() for _ in range(12)]
    vm.run(f"(kill -STOP {resident}; sleep 1; kill -CONT {resident}) >/dev/null 2>&1 &")
    with ThreadPoolExecutor(len(texts)) as pool:
        runs = [pool.submit(vm.run, f"printf %s {text} | sha256sum") for text in texts]
    for text, done in zip(texts, runs, strict=True):
        assert done.result().stdout.split()[0] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("vm", GROUPS[:1], indirect=True, scope="module")  # others are sent no lines by a shell
def test_odd_lines_from_the_guest_end_nothing(vm: VirtualMachine) -> None:
    resident = vm.run(RESIDENT).stdout.strip()
    odd = r"\n\n \n1\n0123456789abcdef0123456789abcdef\n0123456789abcdef0123456789abcdef 0 x\n\377\376\n"
    vm.run(f"printf '{odd}' >>/proc/{resident}/fd/8")
    assert vm.run("echo hello").stdout == "hello\n"


def test_output_without_room_is_told_and_leaves_room_to_the_next(lab: Lab) -> None:
    vm = lab.start(
        config("tiny-shell-clone").replace(initrd=tiny_linux().initrd, memory="128M", channel="auto"),
        name="little memory",
    )
    for _ in range(2):
        with pytest.raises(ChannelError, match=r"no more room for what commands print \(\d+ MiB, half of its memory\)"):
            vm.run(f"head -c {64 << 20} /dev/zero; true")
        holds(vm)
    vm.close()


@on_a_disk
def test_a_command_is_a_command_on_a_disk_without_room(vm: VirtualMachine, tmp_path: Path) -> None:
    do, undo = FULL
    vm.write_text("/root/before", "kept")
    assert vm.run(f"{{ {do}; }} && echo done").stdout == "done\n"
    try:
        holds(vm)
        with pytest.raises(TransferError, match="No space left on device"):
            vm.write_bytes("/root/new", bytes(100_000))
        vm.pull("/root", tmp_path)
        assert (tmp_path / "before").read_text() == "kept"
        left = vm.run("ls -a /var/tmp /tmp /run /dev/shm | grep -E '^[.]readonly-vm-[0-9a-f]{16}$'", check=False)
        assert left.stdout == ""
    finally:
        vm.run(undo)


@on_a_disk
def test_when_everything_is_deleted_the_next_command_ends_with_a_sentence(vm: VirtualMachine) -> None:
    """The last, as it spoils the machine."""
    with contextlib.suppress(ChannelError):  # there is nothing any more that could send what it prints
        vm.run(DELETED, timeout=GENEROUS)
    assert vm.run("true").exit_code == 0
    assert vm.run("exit 7", check=False).exit_code == 7
    with pytest.raises(ChannelError, match=r"has no `cat` that works|the agent cannot read what the command printed"):
        vm.run("printf %2000s hello")
    with pytest.raises(CommandTimeout):
        vm.run("while :; do :; done", timeout=1)
