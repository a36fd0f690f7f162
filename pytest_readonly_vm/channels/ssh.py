"""Owns the channel over SSH: the system's `ssh` with one connection kept open, its port, key and known host.

Needs a network card in the guest, sshd, and a key that it accepts.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels import helper, ssh_file
from pytest_readonly_vm.channels.channel import Sink
from pytest_readonly_vm.channels.network import Forward, Network
from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
from pytest_readonly_vm.channels.shell_session import ShellSession
from pytest_readonly_vm.channels.ssh_banner import wait_for_banner
from pytest_readonly_vm.channels.ssh_mux import MuxSession, Refused
from pytest_readonly_vm.channels.stream import Stream
from pytest_readonly_vm.errors import ChannelError, ChannelLost, VmError
from pytest_readonly_vm.host.process import Process, Spawner
from pytest_readonly_vm.host.ssh_key import MISSING
from pytest_readonly_vm.printable import shown

_SSHD = 22
_LOGIN_PATIENCE = 60.0
"""Seconds for the first login; for each that took longer, the next has twice as many."""
_DEATH_PATIENCE = 2.0
_LAST_WORDS_PATIENCE = 0.2
# For the user's login shell, which need not be a POSIX one. It stays behind ours, and tells sshd at once when that has
# ended: what it has begun may hold the session's streams for longer.
_SHELL = "/bin/sh -s readonly-vm; exit 1"
_LOSS = "the channel over SSH is gone: the connection was lost, or its shell was killed"


class Ssh(helper.NoHelper):
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
        self._qmp = qmp
        self._network = network
        self._name = name
        self._user = user
        self._known_hosts = folder / "known_hosts"
        self._control = folder / "ssh"
        self._master: Process | None = None
        self._session: MuxSession | None = None
        self._shell: ShellSession | None = None
        self._watch: asyncio.Task[int | None] | None = None
        self._patience = _LOGIN_PATIENCE
        self._reason = "not tried"
        qmp.listeners.append(self._hear)

    def _hear(self, event: QmpEvent) -> None:
        if event.name == "RESET" and self._master:
            # The guest has forgotten the connection, and would say so when it has booted and is sent something.
            self._master.signal(signal.SIGKILL)
            if self._shell:
                self._shell.stream.lose()

    async def part(self) -> Mapping[str, Any] | None:
        await self.close()  # a connection's other end is on the host, of which no copy is made
        return None

    async def resume(self, parted: Mapping[str, Any]) -> None:
        await self.open()

    def is_open(self) -> bool:
        return self._shell is not None and self._shell.is_open()

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
        def note(reason: str) -> None:
            self._reason = reason

        await wait_for_banner(*address, note)

    async def _log_in(self, program: str) -> bool:
        self._control.unlink(missing_ok=True)
        options = ["-o", "BatchMode=yes", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=10"]
        shared = ["-M", "-o", f"ControlPath={_escaped(self._control)}"]
        argv = [program, "-N", *shared, *options, *self._options(), self._destination]
        env = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        master = self._spawner.start(argv, name=f"{self._name}: ssh", env=env, pass_fds=(), ruleset=None)
        self._master = master
        try:
            async with asyncio.timeout(self._patience):
                while not self._control.exists():
                    if await master.wait_ended(0.005):
                        self._reason = self._refusal(master.stderr())
                        return False
                await self._start_shell()
        except TimeoutError:
            self._reason = f"no answer to the login within {self._patience:g} s"
            self._patience *= 2
            return False
        except (Refused, ConnectionError) as refusal:
            self._reason = f"{self._user} was let in: {refusal}"
            return False
        except ChannelLost:
            self._reason = f"{self._user} was let in: the connection was lost"
            return False
        return True

    async def _start_shell(self) -> None:
        self._session = await MuxSession.open(self._control, _SHELL, is_one_stream=True)
        self._session.stderr.close()
        self._reason = f"{self._user} was let in: the shell does not answer"
        stream = Stream(self._process, self._session.stdio, name=self._name, loss=_LOSS, patience=_DEATH_PATIENCE)
        self._shell = ShellSession(stream, self._name, write_large=self.write_file)
        self._watch = asyncio.ensure_future(self._watch_session(self._session, stream))
        try:
            await self._shell.open()
        except ChannelLost:
            if (status := await self._watch) is None:
                raise
            self._reason = await self._no_shell(self._shell, status)
            raise ChannelError(f"{self._name}: ssh: {self._reason}") from None

    async def _watch_session(self, session: MuxSession, stream: Stream) -> int | None:
        """Wake who waits for the shell when it has ended. The status is None if the connection was lost."""
        status: int | None = None
        with contextlib.suppress(ConnectionError):
            status = await session.status()
        await self._hear_of_death()
        stream.lose()
        return status

    async def _hear_of_death(self) -> None:
        """If a connection has ended because QEMU does, wait for its end.

        Its monitor tells: a dying QEMU has closed that as well, but on a busy host it may take long until it has ended.
        """
        with contextlib.suppress(VmError):
            await self._qmp.command("query-status", timeout=_DEATH_PATIENCE)

    async def _no_shell(self, shell: ShellSession, status: int) -> str:
        """What to say of a login that runs something else than our shell."""
        words = await shell.last_words(_LAST_WORDS_PATIENCE)
        lines = [shown(line.strip()) for line in words.splitlines() if line.strip()]
        return (
            f"{self._user} was let in, but the login shell or a command that the key is bound to ended with exit code "
            f"{status} in place of running /bin/sh" + "".join(f": {line}" for line in lines[-1:])
        )

    def _refusal(self, complaint: str) -> str:
        if "Permission denied" in complaint:
            return f"permission denied for {self._user} with the key of the run"
        if "Host key verification failed" in complaint:
            return f"the guest has another host key than before (in {self._known_hosts})"
        return (complaint.strip().splitlines() or ["ssh ended without a word"])[-1]

    async def _disconnect(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._shell is not None:
            shell, self._shell = self._shell, None
            await shell.close()
        if self._session is not None:
            session, self._session = self._session, None
            session.close()
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
        return await self._opened_shell().execute(script, input=input, stdout=stdout, stderr=stderr)

    async def read_file(self, path: bytes, sink: Sink) -> None:
        shell = self._opened_shell()
        with contextlib.suppress(Refused):
            await self._transfer(shell, ssh_file.read(self._control, path, sink))
            return
        await shell.read_file(path, sink)

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        shell = self._opened_shell()
        with contextlib.suppress(Refused):
            await self._transfer(shell, ssh_file.write(self._control, path, content))
            return
        await shell.write_file(path, content)

    async def _transfer(self, shell: ShellSession, work: Coroutine[Any, Any, None]) -> None:
        """Await a transfer over a session of its own, unless the connection is lost.

        :raises Refused: sshd gives no more sessions, or runs another command in them than is asked for.
        """
        if not shell.has_argument:
            work.close()
            raise Refused("another command is run")
        try:
            await shell.stream.race(work, since=0)
        except ConnectionError:
            await self._hear_of_death()
            raise await self._process.death_or(shell.stream.loss(), patience=0.0) from None

    def _opened_shell(self) -> ShellSession:
        if self._shell is None:
            raise ChannelLost(f"{self._name}: the channel was closed or is being opened anew")
        return self._shell

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
