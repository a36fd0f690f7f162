"""Owns the attacker: somebody who holds a machine's monitor and wants a file of the host changed, the base image.

This file knows neither pytest nor what is to become of an attack; which attacks there are is in the files beside it.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm import GuestDied, QmpError, VirtualMachine

_PATIENCE = 20.0  # seconds for a job or a migration of a megabyte
_CLIENT_PATIENCE = 20.0


class Attacker:
    """The monitor of a machine in the hands of somebody who wants `base`, the path of a file, changed.

    A refusal is no error: it is what the attacker gets as an answer.
    """

    def __init__(self, vm: VirtualMachine, base: Path) -> None:
        self.vm = vm
        self.base = str(base)

    def qmp(self, command: str, arguments: dict[str, object] | None = None, /, **named: object) -> Any:
        """QEMU's answer to a QMP command; None when it refused."""
        hyphenated = {name.replace("_", "-"): value for name, value in named.items()}
        with contextlib.suppress(QmpError):
            return self.vm.qmp.execute(command, {**(arguments or {}), **hyphenated})
        return None

    def hmp(self, line: str) -> str:
        """QEMU's answer to a line of its human monitor."""
        return str(self.qmp("human-monitor-command", command_line=line))

    def add_node(self, filename: str, **options: object) -> str:
        """Open a file as a writable block node called evil, whoever holds a lock on it."""
        self.qmp("blockdev-add", driver="file", node_name="evil", filename=filename, locking="off", **options)
        return "evil"

    def spoil(self, node: str) -> None:
        """Write, discard and cut by means of a block node or drive."""
        for command in ("write -P 0x5a 0 512", "discard 0 64k", "write -z 0 64k", "flush"):
            self.hmp(f'qemu-io {node} "{command}"')

    def base_nodes(self) -> list[str]:
        """The block nodes that hold the base image: those that are read-only."""
        return [node["node-name"] for node in self.qmp("query-named-block-nodes", flat=True) if node["ro"]]

    def writable(self) -> str:
        """What opens the base writable where a file name is asked for, without QEMU's own locks in the way."""
        return "json:" + json.dumps(
            {"driver": "raw", "file": {"driver": "file", "filename": self.base, "locking": "off"}}
        )

    def finish_jobs(self) -> None:
        """Let block jobs run to their end."""
        for _ in _until_deadline():
            jobs = self.qmp("query-jobs")
            for job in jobs:
                if job["status"] == "ready":
                    self.qmp("job-complete", id=job["id"])
                elif job["status"] == "concluded":
                    self.qmp("job-dismiss", id=job["id"])
            if not jobs:
                return

    def finish_migration(self) -> None:
        """Let a migration run to its end."""
        for _ in _until_deadline():
            if self.qmp("query-migrate").get("status") in (None, "completed", "failed", "cancelled"):
                return

    def write_by_nbd(self, export: str, port: int) -> None:
        """Be the client of a network block device that QEMU serves."""
        subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "write -P 0x5a 0 512", f"nbd://127.0.0.1:{port}/{export}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CLIENT_PATIENCE,
            check=False,
        )


def _until_deadline() -> Iterator[None]:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        yield
        time.sleep(0.01)
    raise TimeoutError(f"QEMU was not done within {_PATIENCE:g} s")


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to change the base. `bites`: it does change a base that only read-only descriptors protect."""

    name: str
    run: Callable[[Attacker], object]
    bites: bool = False

    def __call__(self, vm: VirtualMachine, base: Path) -> None:
        """Do it to a running machine. The machine may not survive it."""
        with contextlib.suppress(GuestDied):
            self.run(Attacker(vm, base))


def hmp(line: str, *, bites: bool = False) -> Attack:
    """An attack by one line of the human monitor, with BASE for the base's path; named by it."""
    return Attack(f"hmp {line}", lambda attacker: attacker.hmp(line.replace("BASE", attacker.base)), bites)
