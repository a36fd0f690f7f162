"""The ways for a person into a machine that runs: each is tried by what a person would use it with."""

import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.machine.attach import close_doors, open_doors
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates
from tests.typist import Typist

PROMPT = "# "
SHORT = 30.0
"""Seconds that all doors may take together."""


def tiny(lab: Lab, **settings: object) -> VirtualMachine:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common = {"memory": "128M", "accel": ACCEL, "start": "clone", "boot_timeout": GENEROUS, "cache": templates()}
    return lab.start(VmConfig().replace(**files | common | settings), name="tiny")


@pytest.fixture(scope="module")
def vm() -> Iterator[VirtualMachine]:
    with Lab() as lab:
        yield tiny(lab)


def doors(vm: VirtualMachine) -> dict[str, str]:
    """What the lines say, by their names."""
    return dict(line.split(": ", 1) for line in open_doors(vm))


def attached(vm: VirtualMachine) -> Typist:
    """Somebody who has pasted the line for the root shell."""
    words = shlex.split(doors(vm)["root shell"])
    return Typist([str(Path(sys.executable).with_name(words[0])), *words[1:]])


def test_each_is_a_private_socket_in_the_machines_folder(vm: VirtualMachine) -> None:
    assert set(doors(vm)) == {"root shell", "ssh", "display", "gdb"}
    for name in ("shell", "vnc", "gdb"):
        found = (vm.folder / name).stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
    assert "vnc" in doors(vm)["display"]  # and once more, while they are open


def test_the_shell_has_a_terminal_with_job_control(vm: VirtualMachine) -> None:
    with attached(vm) as typist:
        typist.wait_for("Enter shows a prompt")
        typist.type("\r")
        typist.wait_for(PROMPT)
        typist.type("tty; [ -t 0 ] && echo yes $HOME\r")
        typist.wait_for("/dev/hvc[0-7]\r\nyes /root\r\n")
        typist.type("sh -c 'echo go; exec sleep 1000'\r")
        typist.wait_for("\ngo\r\n")
        typist.type("\x1a")
        typist.wait_for("Stopped")
        typist.type("bg; jobs\r")
        typist.wait_for("Running")
        typist.type("kill -9 %1; echo $?\r")
        typist.wait_for("\n0\r\n")
        typist.type("\x1d")
        assert typist.wait() == 0
    assert "sleep 1000" not in vm.run("ps").stdout


def test_who_leaves_the_shell_finds_another(vm: VirtualMachine) -> None:
    numbers = []
    for _ in range(2):
        with attached(vm) as typist:
            typist.type("\recho shell $$ $((6 * 7))\r")
            numbers.append(typist.wait_for(r"shell (\d+) 42\r\n")[1])
            typist.type("kill -9 $$\r")
            typist.wait_for(PROMPT)
            typist.type("\x1d")
            typist.wait()
    assert numbers[0] != numbers[1]


def test_a_shell_that_is_served_is_left_alone(vm: VirtualMachine) -> None:
    with attached(vm) as typist:
        typist.type("\rmark=still; clear\r")
        typist.wait_for(PROMPT)
        doors(vm)
        typist.type("echo $mark here\r")
        typist.wait_for("still here\r\n")


def test_the_display_speaks_vnc(vm: VirtualMachine) -> None:
    command, path = shlex.split(doors(vm)["display"])
    assert command == "vncviewer"
    with connected(path) as stream:
        assert stream.recv(12) == b"RFB 003.008\n"


def test_a_debugger_stops_the_guest_and_lets_it_go_on(vm: VirtualMachine) -> None:
    words = shlex.split(doors(vm)["gdb"])
    assert words == ["gdb", "-ex", f"target remote {vm.folder / 'gdb'}"]
    assert vm.qmp.execute("query-status")["running"]
    if shutil.which("gdb"):
        argv = [*words, "-batch", "-nx", "-ex", "info registers rip", "-ex", "detach"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert re.search(r"^rip +0x", done.stdout, re.MULTILINE), done.stderr
    else:
        with connected(str(vm.folder / "gdb")) as stream:
            stream.sendall(b"$?#3f")
            assert said(stream, b"$T05")
            stream.sendall(b"+$D#44")
            assert said(stream, b"OK")
    assert vm.run("echo on").stdout == "on\n"


def test_a_guest_that_stands_still_has_no_shell_but_the_others(vm: VirtualMachine) -> None:
    vm.pause()
    try:
        started = time.monotonic()
        found = doors(vm)
        assert time.monotonic() - started < SHORT
    finally:
        vm.resume()
    assert found["root shell"] == found["ssh"] == "none: the guest stands still (paused)"
    assert found["display"].startswith("vncviewer ")
    assert found["gdb"].startswith("gdb ")


def test_once_they_are_closed_the_machine_can_be_copied_again(vm: VirtualMachine) -> None:
    shell = Path(shlex.split(doors(vm)["root shell"])[-1])
    assert shell.exists()
    close_doors(vm)
    assert not shell.exists()
    with vm.checkpoint():
        vm.run("touch /gone")
    assert vm.run("test -e /gone", check=False).exit_code == 1
    assert doors(vm)["root shell"].startswith("readonly-vm attach ")


def test_a_guest_without_the_driver_is_told_from_one_that_is_silent(vm: VirtualMachine) -> None:
    vm.run("mkdir -p /tmp/hidden; for d in /dev/hvc*; do mv $d /tmp/hidden; done")
    try:
        close_doors(vm)
        vm.wait_until_succeeds("! ps | grep -q readonly-vm[.]person")
        assert doors(vm)["root shell"] == (
            "none: the guest has no driver for it (virtio_console); its serial console is what there is"
        )
        assert not (vm.folder / "shell").exists()
    finally:
        vm.run("mv /tmp/hidden/* /dev")


def test_a_guest_that_does_not_answer_costs_a_few_seconds(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("hello")
    started = time.monotonic()
    found = doors(machine)
    assert time.monotonic() - started < SHORT
    assert found["root shell"].startswith("none: the guest does not answer (agent: silent")
    assert found["ssh"] == "none: not open; vm.ssh_command() opens it if the guest has sshd"
    assert found["gdb"].startswith("gdb ")


def test_a_machine_without_a_port_and_one_that_has_ended(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("hello", channel="none")
    found = doors(machine)
    assert found["root shell"] == "none: the machine has no port for it (channel=none)"
    machine.kill()
    assert {line.partition(": ")[2][:6] for line in open_doors(machine)} == {"none: "}


def said(stream: socket.socket, wanted: bytes) -> bool:
    """Whether it says something, whatever it says before."""
    heard = b""
    stream.settimeout(GENEROUS)
    while wanted not in heard and (piece := stream.recv(100)):
        heard += piece
    return wanted in heard


def connected(path: str) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(20)
    stream.connect(path)
    return stream
