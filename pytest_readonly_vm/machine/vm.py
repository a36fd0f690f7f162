"""Owns `VirtualMachine`: what a test holds of a running guest, and the guest's orderly end."""

import os
import shlex
import shutil
from pathlib import Path

from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.machine.export import export_disk

_POWERDOWN_PATIENCE = 30.0
_QUIT_PATIENCE = 2.0


class VirtualMachine:
    """A guest that runs, and QEMU around it.

    Attributes: `name`; `config`, what it was made of; `qmp`, its monitor; `console`, its serial port; `boot_seconds`,
    from the start of QEMU until the guest was ready; `closed`, whether `close` was called;
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
        self._loop = loop
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

    def is_running(self) -> bool:
        """Whether the QEMU process is there (the guest in it may be paused or have hung)."""
        return self._process.returncode is None

    def kill(self) -> None:
        """Pull the plug: SIGKILL to QEMU. Returns when the process is gone; whoever waits gets `GuestDied`."""
        self._process.kill()

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
