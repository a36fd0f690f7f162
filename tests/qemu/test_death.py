"""Whoever waits for a guest that comes to its end is woken at once, whatever he waits for, and with the right error."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    ChannelError,
    GuestDied,
    GuestPanicked,
    GuestPaused,
    GuestReset,
    GuestShutDown,
    QemuDied,
    QmpEvent,
    VirtualMachine,
    VmError,
    WaitTimeout,
)
from pytest_readonly_vm.channels.console import HEADS
from tests.conftest import READY
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.conftest import STARTS
from tests.qemu.waiting import eventually
from tests.templates import templates

AT_ONCE = 10.0
"""Seconds within which a busy computer wakes a waiter; benchmarks measure it on an idle one."""

LONG = 60.0

FAULTS: dict[str, tuple[Callable[[VirtualMachine], object], type[VmError], str]] = {
    "panic that is told": (lambda vm: vm.console.send("p"), GuestPanicked, "the guest's kernel panicked: it did not"),
    "panic on the console": (lambda vm: vm.console.send("k"), GuestPanicked, "the guest's kernel panicked: told to"),
    "triple fault": (lambda vm: vm.console.send("t"), GuestReset, "the guest was reset without having been told to"),
    "reset": (lambda vm: vm.console.send("r"), GuestReset, "the guest was reset without having been told to"),
    "power off": (lambda vm: vm.console.send("o"), GuestShutDown, "the guest shut down, and QEMU exited with status 0"),
    "SIGKILL": (lambda vm: vm.kill(), QemuDied, "QEMU was killed by SIGKILL"),
    "SIGSEGV": (lambda vm: os.kill(vm.pid, signal.SIGSEGV), QemuDied, "QEMU was killed by SIGSEGV"),
    "quit": (lambda vm: vm.qmp.execute("quit"), QemuDied, "QEMU exited with status 0"),
}

WAITS: dict[str, Callable[[VirtualMachine], object]] = {
    "console": lambda vm: vm.console.expect("never", LONG),
    "event": lambda vm: vm.qmp.wait_event("NEVER", timeout=LONG),
    "command": lambda vm: vm.run("true"),
    "file": lambda vm: vm.wait_for_file("/never", LONG),
}


@pytest.fixture
def vm_start() -> str:
    return "clone"


@pytest.fixture
def vm_image(boot_sector: Callable[[str], Path]) -> Path:
    return boot_sector("obeys")


STANDSTILLS: dict[str, tuple[Callable[[VirtualMachine], object], str, str]] = {
    "pause": (lambda vm: vm.pause(), "paused", r"told to stop, .*\); vm\.resume\(\) lets it go on"),
    "gdb": (lambda vm: step(vm), "debug", r"has reached what a debugger waits for\); the debugger, or vm\.resume\(\)"),
    "watchdog": (lambda vm: hmp(vm, "o /b 0x443 15"), "watchdog", "its watchdog has not been fed"),
    "suspend": (lambda vm: hmp(vm, "o /h 0x604 0x2400"), "suspended", r"to RAM\); vm\.resume\(\) wakes it"),
}
"""What makes a guest stand still, QEMU's run state, words for it. The last is one that needs a system to wake up."""


def hmp(vm: VirtualMachine, command: str) -> str:
    return str(vm.qmp.execute("human-monitor-command", command_line=command))


def step(vm: VirtualMachine) -> None:
    """Run one instruction by gdb's protocol, and leave."""
    path = vm.folder / "gdb"
    hmp(vm, f'gdbserver "unix:{path},server=on,wait=off"')
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.connect(str(path))
        vm.qmp.wait_event("STOP")
        gdb.sendall(b"+$s#73")
        vm.qmp.wait_event("RESUME")
        vm.qmp.wait_event("STOP")


def waits_noted(vm: VirtualMachine) -> list[str]:
    return [one.what for one in vm.history.entries() if one.kind in ("wait", "command")]


def woken_by(vm: VirtualMachine, strike: Callable[[VirtualMachine], object]) -> list[VmError]:
    """What all who wait get by a stroke; each at once, and an error of its own with the evidence."""
    begun = threading.Barrier(len(WAITS) + 1)
    woken: dict[str, tuple[float, VmError]] = {}

    def wait(what: str) -> None:
        begun.wait()
        try:
            WAITS[what](vm)
        except VmError as caught:
            woken[what] = (time.monotonic(), caught)

    noted = len(waits_noted(vm))
    waiters = [threading.Thread(target=wait, args=(what,)) for what in WAITS]
    for waiter in waiters:
        waiter.start()
    begun.wait()
    eventually(lambda: len(waits_noted(vm)) == noted + len(WAITS), "all wait")
    time.sleep(0.2)  # from the note of a wait to the wait itself, on a busy computer
    struck = time.monotonic()
    with contextlib.suppress(GuestDied):  # of the monitor that is told to quit
        strike(vm)
    for waiter in waiters:
        waiter.join(LONG)
    assert woken.keys() == WAITS.keys()
    for moment, caught in woken.values():
        assert moment - struck < AT_ONCE
        assert any(note.startswith((*HEADS, "The console has said nothing new.")) for note in caught.__notes__)
    assert len({id(caught) for _, caught in woken.values()}) == len(WAITS)
    return [caught for _, caught in woken.values()]


@pytest.mark.parametrize("vm_start", STARTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_all_waiters_are_woken_at_once(readonly_vm: VirtualMachine, fault: str) -> None:
    strike, error, words = FAULTS[fault]
    for caught in woken_by(readonly_vm, strike):
        assert type(caught) is error
        assert words in str(caught)


@pytest.mark.parametrize("fault", ["panic that is told", "panic on the console", "power off", "SIGKILL"])
def test_who_comes_later_is_told_as_well(readonly_vm: VirtualMachine, fault: str) -> None:
    strike, error, words = FAULTS[fault]
    strike(readonly_vm)
    with pytest.raises(error, match=words):
        readonly_vm.console.expect("never", LONG)
    with pytest.raises(error, match=words):
        readonly_vm.console.expect("never", LONG)
    with pytest.raises(error, match=words):
        readonly_vm.run("true")
    assert type(readonly_vm.trouble) is error


def test_a_machine_that_was_reset_goes_on(readonly_vm: VirtualMachine) -> None:
    readonly_vm.console.expect(READY)
    readonly_vm.console.send("t")
    eventually(lambda: isinstance(readonly_vm.trouble, GuestReset), "the reset")  # which may be before any wait for it
    readonly_vm.console.expect(READY)
    readonly_vm.console.send("x")
    readonly_vm.console.expect("x")
    assert isinstance(readonly_vm.trouble, GuestReset)


def test_a_reset_that_was_asked_for_is_none(readonly_vm: VirtualMachine) -> None:
    readonly_vm.console.expect(READY)
    readonly_vm.qmp.execute("system_reset")
    readonly_vm.console.expect(READY)
    assert readonly_vm.trouble is None


def test_nor_is_the_firmwares_own_that_is_read_after_what_the_guest_said_next(readonly_vm: VirtualMachine) -> None:
    resets: list[bool] = []

    def be_late(event: QmpEvent) -> None:
        if event.name == "RESET":
            resets.append(event.data["guest"])
            time.sleep(0.3)  # of the loop that reads; the guest is ready a tenth of a second after its reset

    readonly_vm.qmp.listeners.append(be_late)
    readonly_vm.qmp.execute("system_reset")
    readonly_vm.console.expect(READY)
    eventually(lambda: True in resets, "the firmware's reset")
    assert readonly_vm.trouble is None


def test_what_was_said_before_the_end_is_found(readonly_vm: VirtualMachine) -> None:
    readonly_vm.console.send("k")
    assert readonly_vm.console.expect("not syncing: told to")


def test_a_panic_can_be_expected(readonly_vm: VirtualMachine) -> None:
    with readonly_vm.expect_panic() as panic:
        readonly_vm.console.send("k")
        readonly_vm.console.expect("never", LONG)
    assert panic.text == "told to"
    with readonly_vm.expect_panic(timeout=LONG) as panic:
        readonly_vm.console.send("p")
    assert panic.text == "told to"  # it has panicked already


def test_a_kernel_has_the_time_to_say_where_it_was(readonly_vm: VirtualMachine) -> None:
    with readonly_vm.expect_panic():
        readonly_vm.console.send("kCALL TRACE\n")
        readonly_vm.console.expect("CALL TRACE")
        readonly_vm.console.expect("never", LONG)
    assert readonly_vm.console.text.endswith("CALL TRACE\n")


def test_a_panic_that_does_not_come_is_told(readonly_vm: VirtualMachine) -> None:
    with pytest.raises(WaitTimeout, match=r"the guest did not panic within 0\.1 s"), readonly_vm.expect_panic(0.1):
        readonly_vm.console.send("x")


class TestStandingStill:
    """A guest that stands still tells so, whatever has stopped it, and goes on as if nothing had been."""

    def state(self, machine: VirtualMachine) -> str:
        with pytest.raises(GuestPaused) as caught:
            machine.console.expect("never", LONG)
        return caught.value.state

    def test_ends_all_waits_at_once(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("obeys", qemu_args=("-device", "ib700", "-action", "watchdog=pause"))
        for strike, state, words in STANDSTILLS.values():
            for caught in woken_by(machine, strike):
                assert isinstance(caught, GuestPaused)
                assert caught.state in (state, "paused")  # as gdb does first
            eventually(lambda: self.state(machine) == state, state)  # noqa: B023
            for wait in (wait for what, wait in WAITS.items() if what != "event"):  # which may come of QEMU
                with pytest.raises(GuestPaused, match=rf"the guest stands still: run state {state} \(.*{words}"):
                    wait(machine)
            assert isinstance(machine.trouble, GuestPaused) == (state == "watchdog")
            machine.resume()
            machine.qmp.forget_events()
            assert not isinstance(machine.trouble, GuestPaused)
            if state != "suspended":
                machine.console.send("x")
                machine.console.expect("x")
        assert machine.qmp.execute("query-status")["running"]

    def test_keeps_what_was_said_before(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("obeys")
        machine.console.send("xy")
        eventually(lambda: machine.console.text.endswith("xy"), "the echo")
        machine.pause()
        assert machine.console.expect("x")
        assert machine.qmp.wait_event("STOP")
        assert machine.console.expect("y")

    def test_does_not_end_a_wait_for_what_qemu_does(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("obeys")
        with ThreadPoolExecutor(1) as threads:
            wait = threads.submit(machine.qmp.wait_event, "RESUME", None, 10.0)
            eventually(lambda: len(waits_noted(machine)) == 1, "a wait")
            machine.pause()
            with pytest.raises(WaitTimeout):
                machine.qmp.wait_event("RTC_CHANGE", timeout=0.05)
            machine.resume()
            assert wait.result().name == "RESUME"

    def test_for_a_copys_sake_concerns_nobody(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("obeys", start="clone")
        with ThreadPoolExecutor(1) as threads:
            wait = threads.submit(machine.console.expect, "x", 10.0)
            for _ in range(3):
                machine.checkpoint().close()
            machine.console.send("x")
            assert wait.result()
        machine.pause()
        machine.checkpoint().close()
        with pytest.raises(GuestPaused):
            machine.console.expect("never", LONG)

    def test_ends_with_a_reset_and_a_start(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("obeys")
        machine.console.send("p")
        with pytest.raises(GuestPanicked):
            machine.console.expect("never", LONG)
        machine.qmp.execute("system_reset")
        machine.qmp.wait_event("RESET")
        with pytest.raises(GuestPaused, match=r"run state prelaunch .*; vm\.resume\(\) lets it go on"):
            machine.console.expect("never", LONG)
        machine.resume()
        machine.console.expect(READY)


def test_an_event_that_no_dead_guest_can_cause_is_not_waited_for(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("obeys")
    machine.console.send("p")
    machine.qmp.wait_event("GUEST_PANICKED")
    with pytest.raises(GuestPanicked):
        machine.qmp.wait_event("RTC_CHANGE", timeout=LONG)
    with ThreadPoolExecutor(1) as threads:
        wait = threads.submit(machine.qmp.wait_event, "RESET", None, LONG)
        machine.qmp.execute("system_reset")
        assert wait.result().data["guest"] is False


def test_the_search_for_a_channel_is_part_of_a_commands_time(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("hello")
    began = time.monotonic()
    with pytest.raises(ChannelError, match=r"no channel answered in 0\.3 s"):
        machine.run("true", timeout=0.3)
    with pytest.raises(WaitTimeout, match=r"not done within 0\.3 s: read /etc/hostname"):
        machine.read_text("/etc/hostname", timeout=0.3)
    assert time.monotonic() - began < 2 * AT_ONCE


def test_a_pattern_of_the_users_means_a_panic(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("echo", panic_pattern=r"^guru meditation .*$")
    machine.console.send("\nguru meditation 42\n")
    with pytest.raises(GuestPanicked, match="panicked: guru meditation 42"):
        machine.console.expect("never", LONG)


@pytest.mark.parametrize(
    ("text", "is_panic"),
    [
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n", True),
        ("[    3.141592] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000000\n", True),
        ("[    3.141592][    T1] Kernel panic - not syncing: x\n", True),
        ("panic: vm_fault: fault on nofault entry\ncpuid = 0\ntime = 1\n", True),
        ("panic: kernel diagnostic assertion failed\nStopped at      db_enter+0x14\n", True),
        ("[   1.000] panic: trap\n[   1.000] cpu0: Begin traceback...\n", True),
        ("*** STOP: 0x0000007B (0xF78D2524,0xC0000034,0x00000000,0x00000000)\n", True),
        ("panic: runtime error: index out of range [3] with length 3\n\ngoroutine 1 [running]:\n", False),
        ("the words Kernel panic - not syncing: quoted\n", False),
        ("panic: \n", False),
    ],
)
def test_what_the_console_says_of_a_panic(boot: Callable[..., VirtualMachine], text: str, is_panic: bool) -> None:
    machine = boot("echo")
    for part in ("\n", text[:7], text[7:]):  # it comes in pieces
        machine.console.send(part)
    machine.console.send("the end\n")
    with contextlib.suppress(GuestPanicked, WaitTimeout):
        machine.console.expect("never", 1.0)
    assert isinstance(machine.trouble, GuestPanicked) == is_panic


def test_who_prints_the_words_and_then_a_prompt_has_not_panicked(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("echo")
    machine.console.send("\nKernel panic - not syncing: printed\n# ")
    with pytest.raises(WaitTimeout):
        machine.console.expect("never", 1.0)
    machine.console.send("\n[    1.234567] Kernel panic - not syncing: real\n")
    with pytest.raises(GuestPanicked, match="panicked: real"):
        machine.console.expect("never", LONG)


class TestLinux:
    """A kernel that really panics, early and late."""

    @pytest.fixture
    def tiny(self, boot: Callable[..., VirtualMachine]) -> Callable[..., VirtualMachine]:
        guest = tiny_linux()

        def start(append: str = "", **settings: object) -> VirtualMachine:
            files = {"kernel": guest.kernel, "initrd": guest.initrd, "append": f"{guest.append} {append}".rstrip()}
            known: dict[str, object] = {"memory": "256M", "ready": "auto", **files}
            return boot(guest.disk, **known | settings)

        return start

    @pytest.fixture
    def clone(self, tiny: Callable[..., VirtualMachine]) -> Callable[..., VirtualMachine]:
        def start(**settings: object) -> VirtualMachine:
            return tiny(start="clone", memory="128M", no_cache=False, cache=templates(), **settings)

        return start

    def test_panics_while_it_boots(self, tiny: Callable[..., VirtualMachine]) -> None:
        started = time.monotonic()
        with pytest.raises(GuestPanicked, match="while booting, the guest's kernel panicked: VFS: ") as caught:
            tiny("rdinit=/nowhere init=/nowhere", provision="none", boot_timeout=LONG)
        assert time.monotonic() - started < LONG / 2
        assert caught.value.panic.startswith("VFS: ")

    def test_panics_and_reboots_while_it_boots(self, tiny: Callable[..., VirtualMachine]) -> None:
        with pytest.raises((GuestPanicked, GuestReset), match="while booting"):
            tiny("rdinit=/nowhere init=/nowhere panic=-1", provision="none", boot_timeout=LONG)

    @pytest.mark.parametrize("has_time", ["Y", "N"])
    def test_panics_itself_and_no_program_for_it(self, clone: Callable[..., VirtualMachine], has_time: str) -> None:
        machine = clone(qemu_args=("-action", "panic=none"))  # so that pvpanic does not count
        # From the line that follows it is known whether the kernel stamps its lines.
        machine.run(f"echo {has_time} >/sys/module/printk/parameters/time; echo '<0>a line' >/dev/kmsg")
        machine.console.expect("a line")
        stamp = f"[{machine.run('cut -d . -f 1 /proc/uptime').stdout.strip():>5}.999999] "
        words = "Kernel panic - not syncing: printed"
        trace = f"{stamp}CPU: 0 PID: 1 Comm: x\n{stamp}---[ end {words} ]---"
        for text in (words, stamp + words, f"{stamp}{words}\n{trace}"):
            machine.run("cat >/dev/console; sleep 0.6", input=f"{text}\n")
        machine.run(f"echo '<0>{words}' >/dev/kmsg; sleep 0.6")
        assert machine.trouble is None
        machine.console.expect("printed")
        machine.run("echo -n 'login: ' >/dev/console")  # after which the kernel prints on the same line
        with pytest.raises(GuestPanicked, match="the guest's kernel panicked: sysrq triggered crash"):
            machine.run("echo c >/proc/sysrq-trigger; sleep 60")

    def test_panics_under_a_command(self, clone: Callable[..., VirtualMachine]) -> None:
        machine = clone()
        with pytest.raises(GuestPanicked, match="sysrq triggered crash"):
            machine.run("echo c >/proc/sysrq-trigger; sleep 60")
        assert machine.qmp.execute("query-status")["running"] in (True, False)  # QEMU still answers
        machine.reset()
        assert machine.run("echo again").stdout == "again\n"
        assert machine.trouble is None


def test_a_disk_that_cannot_be_read_pauses_the_guest(boot: Callable[..., VirtualMachine]) -> None:
    faults = "inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5"
    faulty = f"driver=blkdebug,node-name=bad,read-only=on,image.driver=null-co,{faults}"
    disk = ("-blockdev", faulty, "-device", "virtio-blk-pci,drive=bad,rerror=stop,bootindex=1")
    with pytest.raises(GuestPaused, match="QEMU has paused the guest: bad cannot be read: Input/output error"):
        boot("hello", qemu_args=disk, boot_timeout=LONG)
