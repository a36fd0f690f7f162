"""Owns the channel to a root shell that has a virtio-serial port as its input and output."""

from pytest_readonly_vm.channels.port import Port
from pytest_readonly_vm.channels.shell_session import ShellSession

PORT = "readonly-vm.shell"
"""Name of the port in the guest."""


class Shell(ShellSession):
    """A `Channel` over the shell that has `port` open."""

    name = "shell"

    def __init__(self, port: Port, name: str) -> None:
        super().__init__(port, name)
        self._port = port

    def why_not(self) -> str:
        return "does not answer" if self._port.was_open else "silent (nobody in the guest opened its port)"
