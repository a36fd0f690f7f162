"""Owns the loop that people write by hand: one QEMU whose state is saved once, and gone back to for each test.

The guest is booted by the package, to have the same devices and a root shell on the same port. From then on nothing of
the package is in use: words go to QEMU's monitor, and to the guest's shell or agent, by sockets, as they would from a
script. Between the rounds the guest stands still, as its own work would be counted as somebody else's.
"""

import base64
import json
import os
import secrets
import socket
import time
from typing import Any, Self

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab

_PATIENCE = 60.0
_SAVED = "booted"
_GLANCE = 0.005


class RevertLoop:
    """A context manager; entering it boots the guest and saves its state."""

    def __init__(self, lab: Lab, config: VmConfig) -> None:
        self._vm = lab.start(config.replace(start="cold", monitor=True), name="revert loop")
        instance = self._vm.instance
        self._vm.loop.run(instance.channels.close())  # the shell itself stays, and the lines
        for line in instance.lines.values():
            line.settimeout(_PATIENCE)
        self._shell, self._agent = instance.lines["shell"], _Conversation(instance.lines["agent"])
        monitor = socket.socket(socket.AF_UNIX)
        monitor.settimeout(_PATIENCE)
        monitor.connect(str(self._vm.folder / "monitor"))
        self._monitor = _Conversation(monitor)

    def __enter__(self) -> Self:
        self._monitor.ask("qmp_capabilities")
        self.by_shell("true")
        self._type(f"savevm {_SAVED}")
        self.pause()
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.close()
        self._vm.close()

    def revert(self) -> None:
        """Go back to the state that was saved, and on from there."""
        self._type(f"loadvm {_SAVED}")
        self._monitor.ask("cont")

    def pause(self) -> None:
        self._monitor.ask("stop")

    def repair(self) -> None:
        """What a careful script does then: set the clock, and stir the random numbers, which does not reseed them."""
        self.by_shell(f"date -u -s @{round(time.time())}; echo {os.urandom(64).hex()} >/dev/urandom")

    def by_shell(self, command: str) -> str:
        """Have the shell run a command; what that prints."""
        token = secrets.token_hex(8)
        self._shell.sendall(f"{command}; echo {token}\n".encode())
        seen = b""
        while token.encode() not in seen:
            if not (data := self._shell.recv(1 << 16)):
                raise RuntimeError("the guest's shell is gone")
            seen += data
        return seen.decode()

    def by_agent(self, program: str) -> str:
        """The same by the guest agent, which has to be asked whether the program has ended."""
        pid = self._agent.ask("guest-exec", path=program, **{"capture-output": True})["pid"]
        while not (status := self._agent.ask("guest-exec-status", pid=pid))["exited"]:
            time.sleep(_GLANCE)
        return base64.b64decode(status["out-data"]).decode()

    def _type(self, command: str) -> None:
        if complaint := self._monitor.ask("human-monitor-command", **{"command-line": command}):
            raise RuntimeError(f"{command}: {complaint}")


class _Conversation:
    """A line to something that answers requests in JSON."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._answers = line.makefile("rb")

    def ask(self, command: str, **arguments: object) -> Any:
        self._line.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:  # past greetings and events
            said = json.loads(self._answers.readline())
            if "error" in said:
                raise RuntimeError(f"{command}: {said['error']['desc']}")
            if "return" in said:
                return said["return"]

    def close(self) -> None:
        self._answers.close()
        self._line.close()
