"""Owns the ways into a machine from outside of a test: ports, SSH, what a person can paste."""

import asyncio
import os
import shlex
import sys
from pathlib import Path

from pytest_readonly_vm.channels.network import Forward
from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.guest.login import login
from pytest_readonly_vm.host.ssh_key import public_key


class Reachable(Guest):
    """A guest in a machine that others can reach, too."""

    @property
    def monitor_command(self) -> str | None:
        """A command to paste into another terminal for a second monitor, with ``monitor=on``; otherwise None."""
        monitor = self.instance.human_monitor
        return f"qmp-shell -H {shlex.quote(str(monitor))}" if monitor else None

    def wait_for_boot(self, before: str, timeout: float = 300.0) -> None:
        """Wait until the guest has booted anew and a channel answers; at its serial console root is logged in again.

        :param before: what `boot_id` was.
        :raises WaitTimeout: it has not in time.
        """
        instance = self.instance
        console = instance.console
        again = login(instance.config, console, instance.channels, self.name, since=console.position)
        typing = asyncio.run_coroutine_threadsafe(again.run(), self.loop.loop) if again is not None else None
        try:
            super().wait_for_boot(before, timeout)
        finally:
            if typing is not None:
                typing.cancel()

    def forward(self, guest_port: int, *, host_port: int = 0, udp: bool = False) -> Forward:
        """Make a port of the guest reachable from this computer, and from no other; return host and port.

        It stays so until `unforward`, or the end of the machine; with ``with vm.forward(80) as address:`` until that of
        the context. It is there whether anything listens in the guest or not: a connection to a port on which nothing
        does is accepted, and closed again.

        :param host_port: the port on the host's loopback; 0 lets QEMU take a free one.
        :param udp: a UDP port; otherwise TCP.
        :raises VmError: the machine has no network, or the port on the host is taken.
        """
        return self.instance.network.forward(guest_port, host_port=host_port, udp=udp)

    def unforward(self, address: tuple[str, int], *, udp: bool = False) -> None:
        """Close what `forward` opened."""
        self.instance.network.unforward(address, udp=udp)

    def ssh_command(self) -> str:
        """A command to paste into another terminal that logs in as root; it works as long as the machine lives.

        If commands go over another channel, that is used to let the run's key in, and a port is forwarded now.

        :raises ChannelError: sshd does not answer, or the guest cannot be reached to let the key in.
        """
        return self._opened_ssh().ssh_command()

    def ssh_config(self, path: str | os.PathLike[str], *, alias: str = "guest") -> Path:
        """Write a configuration under which `alias` is this guest, for ``ssh -F``, Ansible, fabric, paramiko.

        :raises ChannelError: as `ssh_command`.
        :raises VmError: it cannot be written; its folder must exist; it must not be what machines read.
        """
        written = Path(path)
        try:
            with self.instance.output_guard.file(written) as file:
                file.write(self._opened_ssh().ssh_config(alias).encode())
        except OSError as error:
            raise VmError(f"{self.name}: {written} cannot be written: {error.strerror}") from None
        return written

    def _opened_ssh(self) -> Ssh:
        instance = self.instance
        found = instance.channels.found
        if isinstance(found, Ssh):
            return found
        if instance.ssh is None:
            ssh = instance.make_ssh()
            key = public_key(ssh.key)
            self.run("umask 077; mkdir -p ~/.ssh && cat >>~/.ssh/authorized_keys", input=f"\n{key}\n")
            self.loop.run(self._liveness.race(instance.channels.opened(ssh)))
            instance.ssh = ssh
        return instance.ssh

    def debug(self) -> None:
        """Stop the test here with pytest's debugger. Ways into the guest are opened and shown, then it stands still.

        ``continue`` lets both go on. A paused guest's shells do not answer: `resume` at the debugger's prompt for them.
        """
        try:
            sys.breakpointhook(skip=["pytest_readonly_vm.*"])  # so that it stops in the test and not here
        except TypeError:  # a hook that is not pytest's
            breakpoint()

    def how_to_connect(self) -> str:
        """What a person can paste to look at the machine while it lives, a line each."""
        instance = self.instance
        lines = [f"{self.name}: QEMU is process {instance.process.pid}, its folder {instance.folder}"]
        lines.append(f"console: tail -f {shlex.quote(str(instance.console.log_path))}")
        if self.monitor_command:
            lines.append(f"monitor: {self.monitor_command}")
        if instance.ssh is not None or self.channel == "ssh":
            lines.append(f"root shell: {self.ssh_command()}")
        return "\n".join(lines)
