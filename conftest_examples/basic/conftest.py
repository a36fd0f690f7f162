"""A root shell on the guest's serial console."""

import re
from dataclasses import dataclass

import pytest

from pytest_readonly_vm import Console, VirtualMachine

_END = re.compile(r"(.*?)exit status (\d+)\r?\n", re.DOTALL)


@dataclass
class Answer:
    output: str
    status: int


class Shell:
    """A shell that somebody has logged in to. It runs one command at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Without echo, prompt and the kernel's messages, what comes back is the output of the commands.
        console.send("dmesg -n 1; stty -echo; PS1= exec sh\n")
        # The quotes are not part of the answer, so an echo of this line is not taken for it.
        console.send("echo shell' 'ready\n")
        console.expect(r"shell ready\r?\n")

    def run(self, command: str, timeout: float = 30.0) -> Answer:
        self._console.send(f"{command}\necho exit status $?\n")
        output, status = self._console.expect(_END, timeout).groups()
        return Answer(output.replace("\r\n", "\n"), int(status))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("guest_password", "root's password in the guest")


@pytest.fixture
def shell(readonly_vm: VirtualMachine, pytestconfig: pytest.Config) -> Shell:
    console = readonly_vm.console
    console.send("root\n")
    console.expect("Password: ")
    console.send(pytestconfig.getini("guest_password") + "\n")
    console.expect(r"[#$] $")
    return Shell(console)
