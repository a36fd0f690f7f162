"""Owns `VirtualMachine`: what a test holds of a running guest, and the guest's orderly end."""

import contextlib
import os
import shlex
import time
from pathlib import Path

from pytest_readonly_vm.channels.network import Forward
from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.errors import ChannelLost, VmError, WaitTimeout
from pytest_readonly_vm.host.ssh_key import public_key
from pytest_readonly_vm.machine.export import export_disk, keep_overlay
from pytest_readonly_vm.machine.files import Progress
from pytest_readonly_vm.machine.guest import Guest
from pytest_readonly_vm.machine.instance import Instance
from pytest_readonly_vm.machine.lineage import Lineage
from pytest_readonly_vm.machine.moments import Checkpoint, Forks
from pytest_readonly_vm.machine.start.proof import prove_pristine
from pytest_readonly_vm.machine.start.template import close_all, copies


class VirtualMachine(Guest):
    """A guest that runs, and QEMU around it.

    Attributes: `name`; `config`, what it was made of; `qmp`, its monitor; `console`, its serial port; `screen`, its
    display and keyboard; `boot_seconds`, from the start of QEMU until the guest was ready, and `boot_phases`, the same
    in parts where systemd tells them, for a copy those of the guest that booted; `closed`, whether `close` was called;
    `folder`, the machine's own on the host, the only one that a sealed QEMU may write to, and gone when it is closed.
    After `reset` and `restore`, `qmp`, `console`, `screen` and `folder` are others.
    """

    def __init__(self, instance: Instance, lineage: Lineage, *, progress: Progress) -> None:
        self.name = instance.name
        self.config = instance.config
        self._lineage = lineage
        self._progress = progress
        self._loop = lineage.order.loop
        self._checkpoints: list[Checkpoint] = []
        self._forked = 0
        self.closed = False
        self._move_into(instance)

    def _move_into(self, instance: Instance) -> None:
        super().__init__(
            loop=self._loop, access=instance.access, name=self.name, scratch=instance.folder, progress=self._progress
        )
        self._instance = instance
        self.qmp = instance.qmp
        self.console = instance.console
        self.screen = instance.screen
        self.folder = instance.folder
        self.boot_phases = instance.boot_phases

    def __repr__(self) -> str:
        return f"<VirtualMachine {self.name} pid={self.pid}{'' if self.is_running() else ' ended'}>"

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._instance.process.pid

    @property
    def overlay(self) -> Path | None:
        """The qcow2 file that takes the guest's writes with ``snapshot=overlay``; None with a temporary snapshot."""
        return self._instance.overlay

    @property
    def command_line(self) -> str:
        """How QEMU was started, quoted for a shell. Its descriptor numbers mean something only to that process."""
        return self._instance.process.command_line()

    @property
    def stderr(self) -> str:
        """What QEMU complained about, at most its last 256 KiB."""
        return self._instance.process.stderr()

    @property
    def monitor_command(self) -> str | None:
        """A command to paste into another terminal for a second monitor, with ``monitor=on``; otherwise None."""
        return (
            f"qmp-shell -H {shlex.quote(str(self._instance.human_monitor))}" if self._instance.human_monitor else None
        )

    @property
    def boot_seconds(self) -> float:
        """From the start of QEMU until the guest was ready."""
        return self._instance.ready_after

    @property
    def manner(self) -> str:
        """How the machine came to be: ``boot``, ``clone`` or ``revert``."""
        return self._instance.manner

    def seconds_since_start(self) -> float:
        """How long ago QEMU was started."""
        return time.monotonic() - self._instance.started

    def is_running(self) -> bool:
        """Whether the QEMU process is there (the guest in it may be paused or have hung)."""
        return self._instance.process.returncode is None

    def kill(self) -> None:
        """Pull the plug: SIGKILL to QEMU. Returns when the process is gone; whoever waits gets `GuestDied`."""
        self._instance.process.kill()

    # Life.

    def pause(self) -> None:
        """Stop the guest's processors; `resume` lets them go on as if nothing had been."""
        self.qmp.execute("stop")

    def resume(self) -> None:
        """Let a paused guest go on."""
        self.qmp.execute("cont")

    def reboot(self, *, wait: bool = True, hard: bool = False, timeout: float = 300.0) -> None:
        """Have the guest shut down in good order and boot again; return when it has, and a channel answers.

        :param hard: press the reset button instead: the guest boots again without having shut down.
        :raises WaitTimeout: it has not within `timeout` seconds.
        :raises ChannelError: no channel answers, by which it could be asked or heard; see `hard` and `wait`.
        """
        before = self.boot_id() if wait or not hard else ""
        if hard:
            self.qmp.execute("system_reset")
        else:
            with contextlib.suppress(ChannelLost):
                # An init that is a script does not mind being asked.
                self.run("(sleep 0.2; reboot; sleep 10; sync; reboot -f) >/dev/null 2>&1 &")
        if wait:
            self.wait_for_boot(before, timeout)

    def powerdown(self, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Press the power button; return when the guest has shut down, and QEMU with it.

        :raises WaitTimeout: it runs on after `timeout` seconds; not every guest minds the button.
        """
        self.qmp.execute("system_powerdown")
        if wait and not self._loop.run(self._instance.process.wait_ended(timeout)):
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
        return self._instance.network.forward(guest_port, host_port=host_port, udp=udp)

    def unforward(self, address: tuple[str, int], *, udp: bool = False) -> None:
        """Close what `forward` opened."""
        self._instance.network.unforward(address, udp=udp)

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
        instance = self._instance
        found = instance.access.found
        if isinstance(found, Ssh):
            return found
        if instance.ssh is None:
            ssh = instance.make_ssh()
            key = public_key(ssh.key)
            self.run("umask 077; mkdir -p ~/.ssh && cat >>~/.ssh/authorized_keys", input=f"\n{key}\n")
            self._loop.run(instance.access.opened(ssh))
            instance.ssh = ssh
        return instance.ssh

    def how_to_connect(self) -> str:
        """What a person can paste to look at the machine while it lives, a line each."""
        lines = [f"{self.name}: QEMU is process {self.pid}, its folder {self.folder}"]
        lines.append(f"console: tail -f {shlex.quote(str(self.console.log_path))}")
        if self.monitor_command:
            lines.append(f"monitor: {self.monitor_command}")
        if self._instance.ssh is not None or self.channel == "ssh":
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
            qemu_img=self._lineage.order.hypervisor.qemu_img,
        )

    # Moments.

    def reset(self) -> None:
        """Be as a test gets the machine: pristine, booted, ready. What the guest has done since then is gone.

        A clone is there at once, a cold start boots anew; see the setting ``start``. Checkpoints stay.

        :raises VmError: the new machine could not be started; the old one lives.
        """
        old = self._instance
        is_retired = old.retire is not None and old.retire()
        self._move_into(self._lineage.pristine())
        if not is_retired:
            self._end(old)
        self.prove_pristine()

    def prove_pristine(self) -> None:
        """With the setting ``prove_pristine``: look for what another machine may have left, and leave a mark.

        :raises VmError: there is such a mark.
        """
        if self.config.prove_pristine:
            prove_pristine(self, self.name)

    def checkpoint(self) -> Checkpoint:
        """Remember the guest as it is at this moment, RAM and disk; it runs on. As a context, go back at its end.

        It takes memory on the host as large as what the guest has in use, until it or the machine is closed.

        :raises VmError: something of the machine cannot be saved: some devices, such as nvme, block it.
        """
        checkpoint = Checkpoint(self, self._lineage.freeze(self._instance))
        self._checkpoints.append(checkpoint)
        return checkpoint

    def restore(self, checkpoint: Checkpoint | None = None) -> None:
        """Go back to a checkpoint, the latest by default, as often as wanted. Network connections do not survive.

        :raises VmError: there is none, or it is closed, or another machine's.
        """
        checkpoint = checkpoint or next(iter(self._checkpoints[-1:]), None)
        if checkpoint is None:
            raise VmError(f"{self.name}: there is no checkpoint to go back to")
        if checkpoint not in self._checkpoints:
            raise VmError(f"{self.name}: the checkpoint is closed or another machine's")
        old = self._instance
        self._move_into(self._lineage.copy(checkpoint.template))
        self._end(old)

    def forget(self, checkpoint: Checkpoint) -> None:
        """Give a checkpoint's memory back; it cannot be restored any more."""
        if checkpoint in self._checkpoints:
            self._checkpoints.remove(checkpoint)
            checkpoint.template.close()

    def fork(self, count: int = 1) -> Forks:
        """Machines that go on from this one's present state, independent of it and of each other; it runs on.

        They end with the test, or with ``with vm.fork(3) as (a, b, c):``, or when each is closed.

        :raises VmError: as `checkpoint`.
        """
        template = self._lineage.freeze(self._instance)
        forks: list[VirtualMachine] = []
        try:
            for number in range(1, count + 1):
                forks.append(self._lineage.fork(template, f"{self.name} (fork {self._forked + number})"))
        except BaseException:
            Forks(forks).close()
            raise
        finally:
            template.close()
        self._forked += count
        return Forks(forks)

    def _end(self, old: Instance) -> None:
        self._loop.run(old.end())
        old.remove_folder()

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
        for checkpoint in tuple(self._checkpoints):
            self.forget(checkpoint)
        instance = self._instance
        if keep_overlay_as is None and instance.retire is not None and instance.retire():
            return
        try:
            lower = copies(instance.own_layers) if keep_overlay_as is not None else ()
            try:
                self._loop.run(instance.end(powerdown=keep_overlay_as is not None))
                if keep_overlay_as is not None and instance.overlay is not None:
                    qemu_img = self._lineage.order.hypervisor.qemu_img
                    keep_overlay(instance.overlay, keep_overlay_as, lower, instance.layers, qemu_img=qemu_img)
            finally:
                close_all(lower)
        except (TimeoutError, OSError) as error:
            raise VmError(f"{self.name}: {error}") from error
        finally:
            instance.remove_folder()
