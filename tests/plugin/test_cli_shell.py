"""``readonly-vm shell`` and ``attach``, at a real terminal, on a small Linux."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.typist import Typist

COMMAND = str(Path(sys.executable).with_name("readonly-vm"))
PROMPT = "# "
A_WHILE = 120.0
"""Seconds that a start may take, where many things run."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command for a guest that boots once for all tests."""
    guest = tiny_linux()
    files = [str(guest.disk), f"--kernel={guest.kernel}", f"--initrd={guest.initrd}", f"--append={guest.append}"]
    cache = f"--cache={tmp_path_factory.mktemp('cache') / 'templates'}"
    # It waits for no room that other runs take, of which it would tell.
    return [COMMAND, "shell", "--memory=256M", f"--accel={ACCEL}", "--network=none", "--budget=off", cache, *files]


def test_one_command_has_its_streams_and_its_status(shell: list[str]) -> None:
    script = "echo out; echo err >&2; cat; exit 3"
    done = subprocess.run([*shell, "-c", script], input=b"in\xff\n", capture_output=True, timeout=A_WHILE)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\nin\xff\n", b"err\n")


def test_what_is_piped_is_a_script(shell: list[str]) -> None:
    done = subprocess.run(shell, input=b"hostname\nexit 4\n", capture_output=True, timeout=A_WHILE)
    assert (done.returncode, done.stdout, done.stderr) == (4, b"tiny\n", b"")


def test_it_is_a_shell_with_job_control_that_ends_with_exit(shell: list[str]) -> None:
    with Typist(shell) as typist:
        typist.wait_for(r"which is not written; Ctrl-\] ends it")
        typist.wait_for(PROMPT, A_WHILE)
        typist.type("tty; echo $HOME $PWD\r")
        typist.wait_for("/dev/hvc0\r\n/root /root\r\n")
        typist.wait_for(PROMPT)
        typist.type("sh -c 'echo go; exec sleep 1000'\r")
        typist.wait_for("\ngo\r\n")
        typist.type("\x1a")
        typist.wait_for(r"Stopped +sh -c")
        typist.type("exit; exit 7\r")
        assert typist.wait() == 7
        assert not typist.is_raw()


def test_ctrl_and_bracket_ends_it_whatever_runs(shell: list[str]) -> None:
    with Typist(shell) as typist:
        typist.wait_for(PROMPT, A_WHILE)
        typist.type("while :; do :; done\r")
        typist.wait_for("done\r\n")
        typist.type("\x1d")
        assert typist.wait() == 0
        typist.wait_for("readonly-vm: the machine is ended\r\n")


@pytest.mark.parametrize(
    ("command", "status", "how"),
    [
        ("poweroff -f", 0, "the guest has shut down"),
        ("echo c >/proc/sysrq-trigger", 1, "the guest's kernel panicked: sysrq"),
    ],
)
def test_it_ends_with_the_guest(shell: list[str], command: str, status: int, how: str) -> None:
    with Typist(shell) as typist:
        typist.wait_for(PROMPT, A_WHILE)
        typist.type(f"{command}\r")
        assert typist.wait() == status
        typist.wait_for(f"readonly-vm: {how}")


HIDE_TERMINALS = """
import sys
from pytest_readonly_vm import Lab, VmConfig
from pytest_readonly_vm.cli.shell import session
from pytest_readonly_vm.host.terminal import Terminal
from pytest_readonly_vm.machine.root_shell import RootShell
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux

guest = tiny_linux()
files = {"kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
with Lab() as lab, Terminal() as terminal:
    vm = lab.start(VmConfig().replace(**files, memory="256M", accel=ACCEL, network="none", start="cold"), name="tiny")
    shell = RootShell(vm.instance)
    vm.loop.run(shell.plug())
    vm.loop.run(shell.unplug())
    vm.run("mkdir /tmp/hidden; mv /dev/hvc* /tmp/hidden")
    sys.exit(session(vm, terminal))
"""


def test_where_there_can_be_no_terminal_the_serial_console_takes_its_place() -> None:
    with Typist([sys.executable, "-c", HIDE_TERMINALS]) as typist:
        typist.wait_for(r"no root shell: the guest has no driver for it \(virtio_console\)", A_WHILE)
        typist.wait_for("tiny# ")
        typist.type("tty\r")
        typist.wait_for("/dev/ttyS0")
        typist.type("\x1d")
        assert typist.wait() == 0


def test_ctrl_c_ends_a_start(boot_sector: Callable[[str], Path], tmp_path: Path) -> None:
    image, settings = (
        str(boot_sector("hello")),
        ("--memory=16M", f"--accel={ACCEL}", "--start=cold", "--ready=console:never"),
    )
    with Typist([COMMAND, "shell", image, *settings], env={**os.environ, "TMPDIR": str(tmp_path)}) as typist:
        typist.wait_for("ends it\r\n")
        deadline = time.monotonic() + A_WHILE
        while not list(tmp_path.glob("*/*/*/console.log")) and time.monotonic() < deadline:
            time.sleep(0.01)
        typist.type("\x03")
        assert typist.wait() == 130
        assert "Traceback" not in typist.seen
    assert not list(tmp_path.glob("*/*"))


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Callable[[], socket.socket]]:
    """The other side of a socket at ``door``."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "door"))
        server.listen()
        server.settimeout(20)
        yield lambda: server.accept()[0]


def test_attach_leaves_the_machine_alone(tmp_path: Path, door: Callable[[], socket.socket]) -> None:
    with Typist([COMMAND, "attach", str(tmp_path / "door")]) as typist, door() as machine:
        typist.wait_for(r"Enter shows a prompt; Ctrl-\] leaves, and the machine goes on")
        machine.sendall(b"tiny# ")
        typist.wait_for("tiny# ")
        typist.type("ls\r\x1d")
        assert machine.recv(100) == b"ls\r"
        assert typist.wait() == 0
        assert machine.recv(100) == b""


def test_attach_tells_that_the_machine_has_ended(tmp_path: Path, door: Callable[[], socket.socket]) -> None:
    with Typist([COMMAND, "attach", str(tmp_path / "door")]) as typist:
        door().close()
        assert typist.wait() == 0
        typist.wait_for("the machine has ended, or its shell was taken away")


def test_attach_to_nothing_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([COMMAND, "attach", tmp_path / "door"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (f"readonly-vm: {tmp_path}/door leads to no machine (any more): No such file or directory\n")
