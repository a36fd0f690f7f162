"""A guest that was copied gets the right time and random numbers of its own, by a script that any shell can run."""

import os
import platform
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import CommandResult, Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.channels.helper import as_format
from pytest_readonly_vm.start.repair import prepare, repair_script
from pytest_readonly_vm.start.repair_program import VAIN_MESSAGE, repair_message, repair_program
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import PROMPT, tiny_linux

HERE = platform.machine()
ELSEWHERE = "aarch64" if HERE == "x86_64" else "x86_64"
LONG_AGO = 1_000_000_000
PROGRAM = ".readonly-vm-repair"


class TestProgram:
    @pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64", "riscv64"])
    def test_arrives_whole_by_the_shells_printf(self, arch: str) -> None:
        program = repair_program(arch)
        assert program
        printing = f"printf '{as_format(program)}'"
        assert printing.isascii()
        assert subprocess.run(["sh", "-c", printing], capture_output=True).stdout == program

    @pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64", "riscv64"])
    def test_is_harmless_to_a_shell_that_takes_it_for_a_script(self, arch: str, tmp_path: Path) -> None:
        program = repair_program(arch)
        assert program
        (tmp_path / "program").write_bytes(program + b"\ntouch harm\n")
        assert subprocess.run(["sh", "program"], cwd=tmp_path, capture_output=True).returncode not in (0, 3)
        assert [path.name for path in tmp_path.iterdir()] == ["program"]

    def test_there_is_none_for_other_processors(self) -> None:
        assert repair_program("s390x") is None


def test_every_script_has_randomness_of_its_own() -> None:
    scripts = {repair_script(arch=arch, now=0.0) for arch in (HERE, "s390x") for _ in range(3)}
    assert len(scripts) == 6


@pytest.fixture(scope="module")
def config() -> VmConfig:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd}
    # With the TSC for a clock, QEMU's emulation lets the guest's time jump at a loadvm.
    append = f"{guest.append} clocksource=hpet tsc=unstable"
    return VmConfig().replace(**files, append=append, memory="256M", accel=ACCEL, channel="shell", start="cold")


@pytest.fixture(scope="module")
def vm(config: VmConfig) -> Iterator[VirtualMachine]:
    with Lab() as lab:
        yield lab.start(config, name="guest")


@pytest.fixture(autouse=True)
def stale(request: pytest.FixtureRequest) -> None:
    """Where there is a guest, its clock is wrong when the test begins."""
    if "vm" in request.fixturenames:
        request.getfixturevalue("vm").run(f"date -u -s @{LONG_AGO}")


def repair(vm: VirtualMachine, *, arch: str = HERE, machine_id: str = "keep") -> CommandResult:
    return vm.run(repair_script(arch=arch, now=time.time(), machine_id=machine_id).decode(), check=False)


def assert_right(vm: VirtualMachine) -> None:
    """The guest's clock shows the host's time."""
    before = time.time()
    shown = int(vm.run("date +%s").stdout)
    assert before - 2 < shown < time.time() + 1


def leftovers(vm: VirtualMachine) -> list[str]:
    return vm.run(f"find / -xdev -name '{PROGRAM}'; find /dev/shm -name '{PROGRAM}'", check=False).stdout.split()


def test_sets_the_clock_and_leaves_nothing_behind(vm: VirtualMachine) -> None:
    result = repair(vm)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert_right(vm)
    assert leftovers(vm) == []


@pytest.mark.skipif(HERE != "x86_64", reason="the guest's kernel runs no programs for i386")
def test_programs_for_i386_work(vm: VirtualMachine) -> None:
    assert repair(vm, arch="i386").exit_code == 0
    assert_right(vm)


class TestHelper:
    """The program that waits, in a guest that was made ready to be copied."""

    @pytest.fixture(autouse=True)
    def prepared(self, vm: VirtualMachine) -> None:
        vm.loop.run(prepare(vm.instance))

    def test_does_it_and_no_process_is_started(self, vm: VirtualMachine) -> None:
        found = []
        for _ in range(2):  # now and then the channel starts one to tidy up
            before, between = processes(vm), processes(vm)
            assert ask(vm, repair_message(time.time(), os.urandom(64)))
            found.append(processes(vm) - between - (between - before))
        assert 0 in found
        assert_right(vm)

    def test_says_so_when_it_cannot(self, vm: VirtualMachine) -> None:
        assert not ask(vm, VAIN_MESSAGE)
        assert not ask(vm, repair_message(-1e17, os.urandom(64)))
        assert ask(vm, repair_message(time.time(), os.urandom(64)))

    def test_is_one_however_often_the_guest_is_made_ready_and_leaves_no_trace_in_commands(
        self, vm: VirtualMachine
    ) -> None:
        [helper] = helpers(vm)
        vm.loop.run(prepare(vm.instance))
        assert helpers(vm) == [helper]
        assert vm.run("ls /proc/self/fd").stdout.split() == ["0", "1", "2", "3"]

    def test_that_was_killed_is_told_at_once_and_another_is_started(self, vm: VirtualMachine) -> None:
        [helper] = helpers(vm)
        vm.run(f"kill -KILL {helper}")
        began = time.monotonic()
        assert not ask(vm, repair_message(time.time(), os.urandom(64)))
        assert time.monotonic() - began < 5
        vm.loop.run(prepare(vm.instance))
        assert ask(vm, repair_message(time.time(), os.urandom(64)))


def ask(vm: VirtualMachine, message: bytes) -> bool:
    channel = vm.instance.channels.found
    assert channel is not None
    return vm.loop.run(channel.ask_helper(message))


def processes(vm: VirtualMachine) -> int:
    """How many the guest has started, this command's among them."""
    return int(
        vm.run("while read -r name value; do case $name in processes) echo $value; esac; done </proc/stat").stdout
    )


def helpers(vm: VirtualMachine) -> list[str]:
    return vm.run("pidof readonly-vm-helper", check=False).stdout.split()


def test_passes_by_where_nothing_can_be_executed(vm: VirtualMachine) -> None:
    vm.run("mkdir -p /dev/shm && mount -t tmpfs -o noexec none /dev/shm && mount -t tmpfs -o noexec none /run")
    try:
        assert repair(vm).exit_code == 0
        assert_right(vm)
        assert leftovers(vm) == []
    finally:
        vm.run("umount /dev/shm /run; rmdir /dev/shm")


@pytest.mark.parametrize("arch", [ELSEWHERE, "s390x"])
def test_without_a_program_the_clock_is_set_and_the_rest_is_told(vm: VirtualMachine, arch: str) -> None:
    result = repair(vm, arch=arch)
    assert_right(vm)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "the random numbers could not be reseeded and may repeat for a minute: "
        "there is neither perl nor python3 to do it"
    ]
    assert leftovers(vm) == []


def test_a_clock_that_cannot_be_set_is_told(vm: VirtualMachine) -> None:
    result = vm.run(repair_script(arch=HERE, now=-1e17).decode(), check=False)
    assert result.exit_code == 1
    assert result.stderr.startswith("the clock could not be set: ")


class TestMachineId:
    @pytest.fixture(autouse=True)
    def clean(self, vm: VirtualMachine) -> None:
        vm.run("rm -rf /etc/machine-id /var/lib/dbus; mkdir -p /var/lib/dbus")

    def test_a_new_one_replaces_all_copies(self, vm: VirtualMachine) -> None:
        old = secrets.token_hex(16)
        vm.run(f"echo {old} | tee /etc/machine-id >/var/lib/dbus/machine-id")
        assert repair(vm, machine_id="new").exit_code == 0
        new = vm.read_text("/etc/machine-id")
        assert re.fullmatch("[0-9a-f]{32}\n", new)
        assert new != f"{old}\n"
        assert vm.read_text("/var/lib/dbus/machine-id") == new

    def test_is_kept_unless_asked_for(self, vm: VirtualMachine) -> None:
        vm.write_text("/etc/machine-id", "old\n")
        assert repair(vm).exit_code == 0
        assert vm.read_text("/etc/machine-id") == "old\n"

    @pytest.mark.parametrize("before", ["rm -f /etc/machine-id", ">/etc/machine-id"])
    def test_a_guest_that_does_without_gets_none(self, vm: VirtualMachine, before: str) -> None:
        vm.run(before)
        vm.run("ln -s /etc/machine-id /var/lib/dbus/machine-id")
        assert repair(vm, machine_id="new").exit_code == 0
        assert vm.run("cat /etc/machine-id", check=False).stdout == ""

    def test_one_that_cannot_be_written_stays(self, vm: VirtualMachine) -> None:
        vm.run("echo old >/etc/machine-id; mount -o bind /etc/machine-id /etc/machine-id")
        vm.run("mount -o remount,bind,ro /etc/machine-id")
        try:
            result = repair(vm, machine_id="new")
            assert (result.exit_code, result.stderr) == (0, "")
            assert vm.read_text("/etc/machine-id") == "old\n"
        finally:
            vm.run("umount /etc/machine-id")


def test_two_copies_of_a_guest_draw_different_random_numbers(config: VmConfig) -> None:
    with Lab() as lab:
        vm = lab.start(config, name="guest")
        for name in ("reseed", "one", "other"):
            vm.write_bytes(f"/tmp/{name}", repair_script(arch=HERE, now=time.time()))
        vm.write_bytes("/tmp/none", b"")
        vm.console.expect(PROMPT)

        def typed(script: str) -> str:
            """The first random bytes after a script."""
            token = secrets.token_hex(4)
            vm.console.send(
                f"sh /tmp/{script} && echo {token}: $(head -c 16 /dev/urandom | hexdump -v -e '1/1 \"%02x\"')\n"
            )
            return vm.console.expect(f"^{token}: ([0-9a-f]{{32}})$")[1]

        def drawn(script: str) -> str:
            """The same of a copy."""
            hmp(vm, "loadvm guest")
            return typed(script)

        for _ in range(10):
            # The kernel reseeds by itself, too, every second or two at first; so it may do so in every copy.
            typed("reseed")
            hmp(vm, "savevm guest")
            if drawn("none") == drawn("none"):
                break
        else:
            pytest.fail("they differ anyway: this shows nothing")
        assert len({drawn("none"), drawn("one"), drawn("other")}) == 3


def hmp(vm: VirtualMachine, line: str) -> None:
    arguments: dict[str, Any] = {"command-line": line}
    assert vm.qmp.execute("human-monitor-command", **arguments) == ""
