"""Owns `VirtualMachine`: what a test holds of a running guest, and the guest's orderly end."""

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.network import Forward, Network
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.channels.screen import Screen
from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.errors import ChannelLost, VmError, WaitTimeout
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.host.ssh_key import public_key
from pytest_readonly_vm.machine.access import Access
from pytest_readonly_vm.machine.export import export_disk
from pytest_readonly_vm.machine.files import Progress
from pytest_readonly_vm.machine.guest import Guest

_POWERDOWN_PATIENCE = 30.0
_QUIT_PATIENCE = 2.0


class VirtualMachine(Guest):
    """A guest that runs, and QEMU around it.

    Attributes: `name`; `config`, what it was made of; `qmp`, its monitor; `console`, its serial port; `screen`, its
    display and keyboard; `boot_seconds`, from the start of QEMU until the guest was ready, and `boot_phases`, the same
    in parts where systemd tells them; `closed`, whether `close` was called;
    `folder`, the machine's own on the host, the only one that a sealed QEMU may write to, and gone when it is closed.
    """

    def __init__(
        self,
        *,
        name: str,
        config: VmConfig,
        loop: LoopThread,
        process: Process,
        qmp: Qmp,
        console: Console,
        screen: Screen,
        network: Network,
        ssh: Callable[[], Ssh],
        access: Access,
        started: float,
        progress: Progress,
        folder: Path,
        overlay: Path | None,
        human_monitor: Path | None,
        qemu_img: Path,
    ) -> None:
        self.name = name
        self.config = config
        self.qmp = qmp
        self.console = console
        self.boot_seconds = 0.0
        self.boot_phases: dict[str, float] = {}
        super().__init__(loop=loop, access=access, name=name, scratch=folder, progress=progress)
        self.screen = screen
        self._network = network
        self._make_ssh = ssh
        self._ssh: Ssh | None = None
        self._started = started
        self._process = process
        self.folder = folder
        self._overlay = overlay
        self._human_monitor = human_monitor
        self._qemu_img = qemu_img
        self.closed = False

    def __repr__(self) -> str:
        return f"<VirtualMachine {self.name} pid={self.pid}{'' if self.is_running() else ' ended'}>"

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._process.pid

    @property
    def overlay(self) -> Path | None:
        """The qcow2 file that takes the guest's writes with ``snapshot=overlay``; None with a temporary snapshot."""
        return self._overlay

    @property
    def command_line(self) -> str:
        """How QEMU was started, quoted for a shell. Its descriptor numbers mean something only to that process."""
        return self._process.command_line()

    @property
    def stderr(self) -> str:
        """What QEMU complained about, at most its last 256 KiB."""
        return self._process.stderr()

    @property
    def monitor_command(self) -> str | None:
        """A command to paste into another terminal for a second monitor, with ``monitor=on``; otherwise None."""
        return f"qmp-shell -H {shlex.quote(str(self._human_monitor))}" if self._human_monitor else None

    def seconds_since_start(self) -> float:
        """How long ago QEMU was started."""
        return time.monotonic() - self._started

    def is_running(self) -> bool:
        """Whether the QEMU process is there (the guest in it may be paused or have hung)."""
        return self._process.returncode is None

    def kill(self) -> None:
        """Pull the plug: SIGKILL to QEMU. Returns when the process is gone; whoever waits gets `GuestDied`."""
        self._process.kill()

    # Life.

    def pause(self) -> None:
        """Stop the guest's processors; `resume` lets them go on as if nothing had been."""
        self.qmp.execute("stop")

    def resume(self) -> None:
        """Let a paused guest go on."""
        self.qmp.execute("cont")

    def reboot(self, *, wait: bool = True, timeout: float = 300.0) -> None:
        """Have the guest shut down in good order and boot again; return when it has, and a channel answers.

        :raises WaitTimeout: it has not within `timeout` seconds.
        :raises ChannelError: no channel answers, by which it could be asked; see `reset`.
        """
        before = self.boot_id()
        with contextlib.suppress(ChannelLost):
            # An init that is a script does not mind being asked.
            self.run("(sleep 0.2; reboot; sleep 10; sync; reboot -f) >/dev/null 2>&1 &")
        if wait:
            self.wait_for_boot(before, timeout)

    def reset(self) -> None:
        """Press the reset button: the guest boots again without having shut down."""
        self.qmp.execute("system_reset")

    def powerdown(self, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Press the power button; return when the guest has shut down, and QEMU with it.

        :raises WaitTimeout: it runs on after `timeout` seconds; not every guest minds the button.
        """
        self.qmp.execute("system_powerdown")
        if wait and not self._loop.run(self._process.wait_ended(timeout)):
            error = WaitTimeout(f"{self.name}: the guest did not shut down within {timeout:g} s of its power button")
            error.add_note(f"Last console lines:\n{self.console.tail()}")
            raise error

    # Ways in.

    def forward(self, guest_port: int, *, host_port: int = 0, udp: bool = False) -> Forward:
        """Make a port of the guest reachable from this computer, and from no other; return host and port.

        :param host_port: the port on the host's loopback; 0 lets QEMU take a free one.
        :param udp: a UDP port; otherwise TCP.
        :raises VmError: the machine has no network, or the port on the host is taken.
        """
        return self._network.forward(guest_port, host_port=host_port, udp=udp)

    def unforward(self, address: tuple[str, int], *, udp: bool = False) -> None:
        """Close what `forward` opened."""
        self._network.unforward(address, udp=udp)

    def ssh_command(self) -> str:
        """A command to paste into another terminal that logs in as root; it works as long as the machine lives.

        If commands go over another channel, that is used to let the run's key in, and a port is forwarded now.

        :raises ChannelError: sshd does not answer, or the guest cannot be reached to let the key in.
        """
        return self._opened_ssh().ssh_command()

    def ssh_config(self, path: str | os.PathLike[str], *, alias: str = "guest") -> Path:
        """Write a configuration under which `alias` is this guest, for ``ssh -F``, Ansible, fabric, paramiko.

        :raises ChannelError: as `ssh_command`.
        """
        written = Path(path)
        written.write_text(self._opened_ssh().ssh_config(alias))
        return written

    def _opened_ssh(self) -> Ssh:
        found = self._access.found
        if isinstance(found, Ssh):
            return found
        if self._ssh is None:
            ssh = self._make_ssh()
            key = public_key(ssh.key)
            self.run("umask 077; mkdir -p ~/.ssh && cat >>~/.ssh/authorized_keys", input=f"\n{key}\n")
            self._loop.run(self._access.opened(ssh))
            self._ssh = ssh
        return self._ssh

    def how_to_connect(self) -> str:
        """What a person can paste to look at the machine while it lives, a line each."""
        lines = [f"{self.name}: QEMU is process {self.pid}, its folder {self.folder}"]
        lines.append(f"console: tail -f {shlex.quote(str(self.console.log_path))}")
        if self.monitor_command:
            lines.append(f"monitor: {self.monitor_command}")
        if self._ssh is not None or self.channel == "ssh":
            lines.append(f"root shell: {self.ssh_command()}")
        return "\n".join(lines)

    def export(self, path: str | os.PathLike[str], *, format: str = "qcow2", timeout: float = 600.0) -> None:
        """Write the disk, as it is at this moment, to a new image that needs no other; the guest runs on meanwhile.

        What the guest has not yet written is not in it, as after a loss of power; have it run ``sync`` before.

        :param format: ``qcow2`` or another format that QEMU writes, such as ``raw``.
        :param timeout: seconds that it may take.
        :raises VmError: `path` exists, or cannot be written.
        :raises WaitTimeout: it took longer.
        :raises GuestDied: QEMU ended meanwhile.
        """
        export_disk(
            self._loop,
            self.qmp,
            Path(path).absolute(),
            format=format,
            timeout=timeout,
            name=self.name,
            qemu_img=self._qemu_img,
        )

    def close(self, *, keep_overlay_as: Path | None = None) -> None:
        """End the machine and remove its files; a second call does nothing.

        QEMU is asked to quit, then told by SIGTERM, then killed, each with its own deadline. With `keep_overlay_as` the
        guest is first asked to shut down by its power button (30 s), so that what it wrote is on its disk, and the
        overlay is moved to that path.

        :raises VmError: the process survived all of that, or the overlay could not be kept.
        """
        if self.closed:
            return
        self.closed = True
        try:
            self._loop.run(self._end(powerdown=keep_overlay_as is not None))
            if keep_overlay_as is not None and self._overlay is not None:
                self._keep(self._overlay, keep_overlay_as)
        except (TimeoutError, OSError) as error:
            raise VmError(f"{self.name}: {error}") from error
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def _end(self, *, powerdown: bool) -> None:
        try:
            if powerdown and await self._accepts("system_powerdown"):
                await self._process.wait_ended(_POWERDOWN_PATIENCE)
            if await self._accepts("quit"):
                # Before QEMU hangs up: the library makes a traceback of every connection that is broken on it.
                await self.qmp.disconnect()
                await self._process.wait_ended(_QUIT_PATIENCE)
            await self._process.end()
        finally:
            if self._ssh is not None:
                await self._ssh.close()
            await self._access.close()
            await self.qmp.disconnect()
            self.console.close()

    async def _accepts(self, command: str) -> bool:
        """Give QEMU a command whose effect is its end; False if it has ended already or does not react."""
        try:
            await self.qmp.command(command, timeout=_QUIT_PATIENCE)
        except VmError:
            return False
        return True

    def _keep(self, overlay: Path, destination: Path) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(overlay, destination)
