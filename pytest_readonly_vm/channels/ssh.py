"""Owns the channel over SSH: the system's `ssh` with one connection kept open, its port, key and known host.

Needs a network card in the guest, sshd, and a key that it accepts.
"""

import asyncio
import contextlib
import itertools
import os
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels.channel import Sink, content_of
from pytest_readonly_vm.channels.jobs import PLACES, folder_name, os_error
from pytest_readonly_vm.channels.network import Forward, Network
from pytest_readonly_vm.channels.porter import Vanished
from pytest_readonly_vm.channels.porters import Porters
from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
from pytest_readonly_vm.errors import ChannelError, ChannelLost, VmError
from pytest_readonly_vm.host.process import Process, Spawner
from pytest_readonly_vm.host.ssh_key import MISSING
from pytest_readonly_vm.printable import shown

_SSHD = 22
_LONGEST_LINE = 8192  # bytes; a longer script goes by a file, as shells read their input byte by byte
# Seconds for one attempt. Short ones, as QEMU repeats a request that came too early only after 6 s and more; but sshd
# may need long in a guest that is busy with its boot.
_BANNER_PATIENCE = (1.0, 1.0, 1.0, 4.0)
_LOGIN_PATIENCE = 60.0
_DEATH_PATIENCE = 0.5

_TO_FILE = "umask 077; cat >{path} && exit; rm -f {path}; exit 1"


class Ssh:
    """A `Channel` over the network.

    Attributes: `key`, the path of the private key with which it logs in; `forward`, the address on the host that leads
    to the guest's sshd, from `open` until `close`.
    """

    name = "ssh"

    def __init__(
        self,
        spawner: Spawner,
        process: Process,
        qmp: Qmp,
        network: Network,
        *,
        folder: Path,
        name: str,
        key: Path,
        user: str = "root",
    ) -> None:
        """`folder`, with a path of at most 90 bytes, takes the known host and a socket."""
        self.key = key
        self.forward: Forward | None = None
        self._spawner = spawner
        self._process = process
        self._network = network
        self._name = name
        self._user = user
        self._known_hosts = folder / "known_hosts"
        self._control = folder / "ssh"
        self._master: Process | None = None
        self._porters = Porters(self._control)
        self._reason = "not tried"
        qmp.listeners.append(self._hear)

    def _hear(self, event: QmpEvent) -> None:
        if event.name == "RESET" and self._master:
            # The guest has forgotten the connection, and would say so when it has booted and is sent something.
            self._master.signal(signal.SIGKILL)
            self._porters.drop()

    async def part(self) -> Mapping[str, Any] | None:
        await self.close()  # a connection's other end is on the host, of which no copy is made
        return None

    async def resume(self, parted: Mapping[str, Any]) -> None:
        await self.open()

    def is_open(self) -> bool:
        return self._master is not None and self._master.returncode is None and self._porters.are_open

    def why_not(self) -> str:
        return self._reason

    # Connecting.

    async def open(self) -> None:
        await self._disconnect()
        program = shutil.which("ssh")
        if program is None:
            self._reason = MISSING.format("ssh")
            raise ChannelError(f"{self._name}: {self._reason}")
        try:
            await self._process.race(self._connect(program))
        except BaseException:
            await self.close()
            raise

    async def _connect(self, program: str) -> None:
        self._reason = "silent"
        if self.forward is None:
            self.forward = await self._network.add_forward(_SSHD)
        pause = 0.5
        await self._wait_for_sshd(self.forward)
        while not await self._log_in(program):
            await self._disconnect()
            # To say no costs an emulated guest half a second, and some sshd lock out whoever asks too often.
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
            await self._wait_for_sshd(self.forward)

    async def _wait_for_sshd(self, address: Forward) -> None:
        """Return when it speaks. QEMU accepts every connection, and closes it again when the guest refuses it."""
        pause = 0.02
        for patience in itertools.cycle(_BANNER_PATIENCE):
            writer = None
            try:
                async with asyncio.timeout(patience):
                    reader, writer = await asyncio.open_connection(*address)
                    banner = await reader.readline()
                if banner.startswith(b"SSH-"):
                    return
                self._reason = "no banner of an sshd" if banner else "connection refused (is sshd installed?)"
            except TimeoutError:
                self._reason = "no banner (is the guest's network up?)"
            except OSError:
                self._reason = "connection refused (is sshd installed?)"
            finally:
                if writer:
                    writer.close()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    async def _log_in(self, program: str) -> bool:
        self._control.unlink(missing_ok=True)
        options = ["-o", "BatchMode=yes", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=10"]
        shared = ["-M", "-o", f"ControlPath={_escaped(self._control)}"]
        argv = [program, "-N", *shared, *options, *self._options(), self._destination]
        env = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        master = self._spawner.start(argv, name=f"{self._name}: ssh", env=env, pass_fds=(), ruleset=None)
        self._master = master
        try:
            async with asyncio.timeout(_LOGIN_PATIENCE):
                while not self._control.exists():
                    if await master.wait_ended(0.005):
                        self._reason = self._refusal(master.stderr())
                        return False
                await self._porters.run(b":", None, bytes, bytes)
        except TimeoutError:
            self._reason = f"no answer to the login within {_LOGIN_PATIENCE:g} s"
            return False
        except Vanished as vanished:
            self._reason = f"{self._user} was let in: {vanished}"
            return False
        return True

    def _refusal(self, complaint: str) -> str:
        if "Permission denied" in complaint:
            return f"permission denied for {self._user} with the key of the run"
        if "Host key verification failed" in complaint:
            return f"the guest has another host key than before (in {self._known_hosts})"
        return (complaint.strip().splitlines() or ["ssh ended without a word"])[-1]

    async def _disconnect(self) -> None:
        self._porters.drop()
        self._porters = Porters(self._control)
        if self._master is not None:
            master, self._master = self._master, None
            await master.end()

    async def close(self) -> None:
        await self._disconnect()
        if self.forward is not None:
            forward, self.forward = self.forward, None
            with contextlib.suppress(VmError):
                await self._network.remove_forward(forward)

    # Using.

    async def execute(self, script: bytes, *, input: bytes, stdout: Sink, stderr: Sink) -> int:
        if len(script) > _LONGEST_LINE:
            script = await self._by_file(script)
        return await self._run(script, content_of(input) if input else None, stdout, stderr)

    async def _run(self, script: bytes, content: AsyncIterator[bytes] | None, stdout: Sink, stderr: Sink) -> int:
        try:
            return await self._porters.run(script, content, stdout, stderr)
        except Vanished as vanished:
            if await self._process.wait_ended(_DEATH_PATIENCE):
                raise self._process.death() from None
            raise ChannelLost(f"{self._name}: the channel over SSH is gone: {vanished}") from None

    async def _by_file(self, script: bytes) -> bytes:
        """Put a long script into a file; what runs it removes the file first."""
        for place in PLACES:
            path = f"{place}/{folder_name()}".encode()
            complaint = bytearray()
            to_file = _TO_FILE.encode().replace(b"{path}", path)
            if await self._run(to_file, content_of(script), bytes, complaint.extend) == 0:
                return b"exec 3<%b; rm -f %b; exec /bin/sh /dev/fd/3" % (path, path)
        reason = shown(complaint.decode(errors="replace").strip())
        raise ChannelError(f"{self._name}: the guest has no room for a script of {len(script)} bytes: {reason}")

    async def read_file(self, path: bytes, sink: Sink) -> None:
        await self._on_file(path, b"exec cat %b", None, sink)

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        await self._on_file(path, b"exec dd bs=256k of=%b", content, bytes)

    async def _on_file(self, path: bytes, script: bytes, content: AsyncIterator[bytes] | None, sink: Sink) -> None:
        """Run a script about a file, and raise what its program says as an `OSError`."""
        name = path if path.startswith(b"/") else b"./" + path
        quoted = os.fsencode(shlex.quote(os.fsdecode(name)))
        complaint = bytearray()
        if await self._run(b"export LC_ALL=C; " + script % quoted, content, sink, complaint.extend):
            lines = [line for line in complaint.decode(errors="replace").splitlines() if ": " in line]
            raise os_error("".join(lines[:1]), path)

    # For others.

    def ssh_command(self) -> str:
        """A command to paste into another terminal, which logs in.

        :raises ChannelError: the channel is not open.
        """
        return shlex.join(["ssh", *self._options(), self._destination])

    def ssh_config(self, alias: str) -> str:
        """The text of a configuration under which `alias` is this guest, for `ssh -F`, Ansible, fabric or paramiko.

        :raises ChannelError: the channel is not open.
        """
        lines = [f"    {name} {value}" for name, value in self._settings().items()]
        return "\n".join([f"Host {alias}", f"    HostName {self._address.host}", f"    User {self._user}", *lines, ""])

    @property
    def _address(self) -> Forward:
        if self.forward is None:
            raise ChannelError(f"{self._name}: the channel over SSH is not open: {self._reason}")
        return self.forward

    @property
    def _destination(self) -> str:
        return f"{self._user}@{self._address.host}"

    def _options(self) -> list[str]:
        """Arguments for `ssh` that make it independent of the user's own configuration."""
        settings = [f"{name}={value}" for name, value in self._settings().items()]
        return ["-F", "/dev/null", *(word for setting in settings for word in ("-o", setting))]

    def _settings(self) -> dict[str, str]:
        return {
            "Port": str(self._address.port),
            "IdentityFile": _escaped(self.key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": _escaped(self._known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "accept-new",
            "LogLevel": "ERROR",
        }


def _escaped(path: Path) -> str:
    """A path as `ssh` reads it in a setting, where ``%`` begins a token and a space ends a name."""
    text = str(path).replace("%", "%%")
    return f'"{text}"' if " " in text else text
