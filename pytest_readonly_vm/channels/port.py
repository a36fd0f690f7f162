"""Owns a virtio-serial port: a byte stream to whatever in the guest has it open; the root shell that may have it."""

import socket

from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
from pytest_readonly_vm.channels.shell_session import ShellSession
from pytest_readonly_vm.channels.stream import Stream
from pytest_readonly_vm.host.process import Process

SHELL_PORT = "readonly-vm.shell"
"""Name in the guest of the port that a root shell has as its input and output."""

_LOSS = "the guest closed its end of the channel (it rebooted, or the program ended)"
_DEATH_PATIENCE = 2.0  # seconds: only the end of QEMU closes its socket


class Port(Stream):
    """The host's end of one port.

    What is sent while nobody in the guest has the port open waits in QEMU's socket until somebody has.
    """

    def __init__(self, process: Process, qmp: Qmp, line: socket.socket, *, device: str, name: str) -> None:
        """`device` is QEMU's id of the port, `name` the machine's for messages."""
        super().__init__(process, line, name=name, loss=_LOSS, patience=_DEATH_PATIENCE)
        self._device = device
        self._is_open = False
        self.was_open = False
        """Whether anybody in the guest has had it open."""
        qmp.listeners.append(self._hear)

    def _hear(self, event: QmpEvent) -> None:
        if event.name == "VSERPORT_CHANGE" and event.data.get("id") == self._device:
            is_open = bool(event.data.get("open"))
            # QEMU tells at most one change per second, the last: an opening of what was open was a closing as well.
            if self._is_open or not is_open:
                self.lose()
            self._is_open = is_open
            self.was_open |= is_open  # a copy tells once more of each of its ports how it is


class Shell(ShellSession):
    """A `Channel` over the shell that has `port` open."""

    name = "shell"

    def __init__(self, port: Port, name: str) -> None:
        super().__init__(port, name)
        self._port = port

    def why_not(self) -> str:
        return "does not answer" if self._port.was_open else "silent (nobody in the guest opened its port)"
