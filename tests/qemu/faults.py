"""Owns the table of faults: what goes wrong, who is waiting then, and what he and the evidence are to say of it. Pure.

Two faults are elsewhere, with all that belongs to them: an output folder that cannot be written and a collector that
fails, in ``tests/plugin/test_evidence.py``. A base that changes or vanishes is in `test_faults`, as it fails more tests
than one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from pytest_readonly_vm import (
    BootTimeout,
    ChannelLost,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    GuestPanicked,
    GuestPaused,
    GuestReset,
    GuestShutDown,
    QemuDied,
)

AT_ONCE = 10.0
"""Seconds within which a busy computer wakes a waiter, who would wait for a minute; benchmarks measure it on an idle
one."""

_PRISTINE = {
    "obeys": """
        vm.console.send("x")
        vm.console.expect("x")
    """,
    "tiny": """
        assert vm.run("ls /mnt; cat /proc/sys/vm/panic_on_oom").stdout == "lost+found\\n0\\n"
        assert abs(int(vm.run("date +%s").stdout) - time.time()) < 60
    """,
    "tiny-agent": "assert vm.run('pidof qemu-ga').stdout",
    "tiny-ssh": "assert vm.run('pidof sshd').stdout",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row: a test with a machine `vm` that meets a fault."""

    guest: str
    """``obeys``, the boot sector; ``tiny``, or that with servers and the channel by one of them."""
    error: type[BaseException]
    words: str
    """A regular expression for the whole message, after the machine's name."""
    body: str = "pass"
    """The test. ``soon(function, *arguments)`` strikes in a moment, on another thread; the line that is to meet the
    error ends with ``# met``. Without such a line the start of the machine is to meet it."""
    settings: str = ""
    """Of its machine, as arguments of the marker."""
    sector: str = ""
    """The boot sector that only its machine has, by name."""
    stage: str = ""
    """Shell commands before the run, in a mount namespace of its own."""
    within: float = AT_ONCE
    """Seconds from the stroke, or from where the start or the wait begins, to the error."""
    tells: Mapping[str, str] = field(default_factory=dict)
    """Pieces of evidence, and regular expressions that are found in them."""
    lacks: str = ""
    """A regular expression for what the overview says of pieces that are not there."""

    @property
    def is_met_in_setup(self) -> bool:
        return "# met" not in self.body

    @property
    def pristine(self) -> str:
        """What the test after it does with its machine `vm`."""
        return _PRISTINE[self.guest]


_NOT_ASKED = r"the guest was not asked: test_fault: "

FAULTS: dict[str, Fault] = {
    "panic in early boot": Fault(
        guest="tiny",
        settings="append='console=ttyS0 panic=0 rdinit=/nowhere init=/nowhere', provision='none'",
        error=GuestPanicked,
        words=r"while booting, the guest's kernel panicked: VFS: Unable to mount root fs on .*",
        within=30.0,
        tells={"console.txt": "Linux version .*(?s:.*)Kernel panic - not syncing: VFS", "screenshot.png": ""},
    ),
    "panic later": Fault(
        guest="tiny",
        body="""
            soon(vm.console.send, "echo c >/proc/sysrq-trigger\\n")
            vm.run("sleep 60")  # met
        """,
        error=GuestPanicked,
        words=r"the guest's kernel panicked: sysrq triggered crash",
        tells={"console.txt": "Kernel panic - not syncing: sysrq triggered crash", "timeline.jsonl": "sleep 60"},
        lacks=_NOT_ASKED + "the guest's kernel panicked",
    ),
    "triple fault": Fault(
        guest="obeys",
        body="""
            soon(vm.console.send, "t")
            vm.console.expect("never", 60)  # met
        """,
        error=GuestReset,
        words=r"the guest was reset without having been told to reboot \(a triple fault, a watchdog, a panic\)",
        tells={"qmp.jsonl": r'"event": "RESET"', "screenshot.png": ""},
    ),
    "power off": Fault(
        guest="obeys",
        body="""
            soon(vm.console.send, "o")
            vm.console.expect("never", 60)  # met
        """,
        error=GuestShutDown,
        words=r"the guest shut down, and QEMU exited with status 0",
        tells={"qmp.jsonl": r'"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}'},
    ),
    "reboots without end": Fault(
        guest="obeys",
        sector="resets",
        settings="ready='console:never'",
        error=GuestReset,
        words=r"while booting, the guest was reset without having been told to reboot .*; QEMU exited with status 0",
        within=30.0,
        tells={"console.txt": "hello", "qmp.jsonl": r'"event": "SHUTDOWN"'},
    ),
    "hang in boot": Fault(
        guest="obeys",
        sector="spin",
        settings="ready='console:never', boot_timeout=6",
        error=BootTimeout,
        words=r"the guest was not ready within 6 s \(boot_timeout, from marker on .*\): waited for .*",
        within=30.0,
        tells={"console.txt": "hello", "screenshot.png": ""},
    ),
    "hang in a command": Fault(
        guest="tiny",
        body="""
            vm.run("echo begun; sleep 4321", timeout=1)  # met
        """,
        error=CommandTimeout,
        words=r"the command did not end within 1 s and was killed: echo begun; sleep 4321",
        within=30.0,
        tells={"processes.txt": "(?m)^ *PID", "timeline.jsonl": "sleep 4321.*did not end within 1 s"},
    ),
    "hang in a command without a timeout": Fault(
        guest="tiny",
        settings="test_timeout=3",
        body="""
            vm.run("echo begun; sleep 4321")  # met
        """,
        error=pytest.fail.Exception,
        words=r"Timeout \(>[\d.]+s\) from pytest-timeout\.\ntest_fault: waiting [\d.]+ s for: echo begun; sleep 4321",
        within=30.0,
        tells={"overview.txt": "failed in: +timeout", "processes.txt": "sleep 4321"},
    ),
    "QEMU killed by SIGKILL": Fault(
        guest="obeys",
        body="""
            soon(os.kill, vm.pid, signal.SIGKILL)
            vm.console.expect("never", 60)  # met
        """,
        error=QemuDied,
        words=r"QEMU was killed by SIGKILL",
        tells={"overview.txt": "QEMU: .*was killed by SIGKILL"},
    ),
    "QEMU killed by SIGSEGV": Fault(
        guest="tiny",
        body="""
            soon(os.kill, vm.pid, signal.SIGSEGV)
            vm.run("sleep 60")  # met
        """,
        error=QemuDied,
        words=r"QEMU was killed by SIGSEGV",
        tells={"overview.txt": "QEMU: .*was killed by SIGSEGV"},
    ),
    "disk of the host full": Fault(
        guest="tiny",
        stage="mount -t tmpfs -o size=96m none $TMPDIR",
        body="""
            ballast = Path(os.environ["TMPDIR"], "ballast")
            ballast.write_bytes(bytes(88 << 20))
            try:
                vm.run("dd if=/dev/zero of=/mnt/zero bs=1M count=40 conv=fsync")  # met
            finally:
                ballast.unlink()
        """,
        error=GuestPaused,
        words=r"QEMU has paused the guest: disk0 cannot be written: No space left .* where \d MiB are free; see .*",
        within=30.0,
        tells={"qmp.jsonl": '"event": "BLOCK_IO_ERROR".*"nospace": true', "screenshot.png": ""},
        lacks=_NOT_ASKED + "QEMU has paused the guest",
    ),
    "paused": Fault(
        guest="obeys",
        body="""
            soon(vm.pause)
            vm.console.expect("never", 60)  # met
        """,
        error=GuestPaused,
        words=r"the guest stands still: run state paused \(.*\); vm\.resume\(\) lets it go on",
        tells={"qmp.jsonl": '"event": "STOP"', "screenshot.png": ""},
        lacks="the guest was not asked: it is paused",
    ),
    "suspended to RAM": Fault(
        guest="tiny",
        body="""
            soon(vm.console.send, "echo mem >/sys/power/state\\n")
            vm.run("sleep 60")  # met
        """,
        error=GuestPaused,
        words=r"the guest stands still: run state suspended \(.*\); vm\.resume\(\) wakes it",
        within=30.0,
        tells={"qmp.jsonl": '"event": "SUSPEND"', "screenshot.png": ""},
        lacks="the guest was not asked: it is suspended",
    ),
    "a shell that hangs": Fault(
        guest="tiny",
        settings="timeout_factor=1",
        body="""
            vm.console.send("kill -STOP -1; echo sto''pped\\n")  # all but the console's shell, which does that
            vm.console.expect("stopped")
            with pytest.raises(TimeoutError):
                vm.wait_until_succeeds("sleep 1; false", timeout=2)
            with pytest.raises(TimeoutError, match="not done within 1 s: read /etc/passwd"):
                vm.read_text("/etc/passwd", timeout=1)
            struck.append(time.time())
            vm.run("echo never", timeout=1)  # met
        """,
        error=CommandTimeout,
        words=r"the command did not end within 1 s and the guest did not answer the request to kill it: echo never",
        within=2 * AT_ONCE,
    ),
    "monitor's connection closed": Fault(
        guest="obeys",
        body="""
            soon(vm.instance.monitor.shutdown, socket.SHUT_RDWR)
            vm.qmp.wait_event("NEVER", timeout=60)  # met
        """,
        error=ConnectionLost,
        words=r"the connection to QEMU's monitor broke: .*",
        within=2 * AT_ONCE,
        tells={"console.txt": "hello"},
    ),
    "out of memory": Fault(
        guest="tiny",
        body="""
            vm.run("tail /dev/zero")  # met
        """,
        error=CommandFailed,
        words=r"exit code 137 from: tail /dev/zero",
        within=60.0,
        tells={"kernel.txt": r"Out of memory: Killed process \d+ \(tail\)", "processes.txt": "(?m)^ *PID"},
    ),
    "out of memory, and made to panic of it": Fault(
        guest="tiny",
        body="""
            vm.run("echo 1 >/proc/sys/vm/panic_on_oom; tail /dev/zero")  # met
        """,
        error=GuestPanicked,
        words=r"the guest's kernel panicked: Out of memory: .*panic_on_oom is enabled",
        within=60.0,
        tells={"console.txt": "Kernel panic - not syncing: Out of memory"},
    ),
    "clock jumps": Fault(
        guest="tiny",
        body="""
            for date in ("2037-01-01 00:00", "1999-01-01 00:00"):
                vm.run(["date", "-s", date])
                assert vm.run("date +%Y").stdout == f"{date[:4]}\\n"
                vm.write_text("/mnt/file", date)
                vm.wait_for_file("/mnt/file")
            vm.run("sleep 4321", timeout=1)  # met
        """,
        error=CommandTimeout,
        words=r"the command did not end within 1 s and was killed: sleep 4321",
        within=30.0,
        tells={"processes.txt": "(?m)^ *PID", "kernel.txt": "Linux version"},
    ),
    "agent stopped": Fault(
        guest="tiny-agent",
        body="""
            vm.run("killall servers qemu-ga; sleep 60")  # met
        """,
        error=ChannelLost,
        words=r"the guest closed its end of the channel \(it rebooted, or the program ended\)",
        within=30.0,
        tells={"qmp.jsonl": '"event": "VSERPORT_CHANGE", "data": {"open": false', "screenshot.png": ""},
        lacks="the guest was not asked: no channel has answered",
    ),
    "sshd stopped": Fault(
        guest="tiny-ssh",
        body="""
            vm.run("killall sshd sshd-session; sleep 60")  # met
        """,
        error=ChannelLost,
        words=r"the channel over SSH is gone: the connection was lost, or its shell was killed",
        within=30.0,
        tells={"timeline.jsonl": "killall sshd.*the channel over SSH is gone", "screenshot.png": ""},
        lacks="the guest was not asked: no channel has answered",
    ),
}
