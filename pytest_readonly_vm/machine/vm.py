"""Owns `VirtualMachine`: what a test holds of a running guest, and the guest's orderly end."""

import contextlib
import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_readonly_vm.channels.history import History
from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.errors import ChannelLost, GuestShutDown, VmError
from pytest_readonly_vm.guest.files import Progress
from pytest_readonly_vm.machine.checkpoints import Keeper
from pytest_readonly_vm.machine.expected_panic import Panic, expecting_panic
from pytest_readonly_vm.machine.power_cut import Powered
from pytest_readonly_vm.qemu.disk import keep_overlay
from pytest_readonly_vm.qemu.disk_spec import close_all, copies
from pytest_readonly_vm.qemu.instance import Instance

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.virtual_disk import VirtualDisk


class VirtualMachine(Powered):
    """A guest that runs, and QEMU around it.

    Attributes: `name`; `config`, what it was made of; `qmp`, its monitor; `console`, its serial port; `screen`, its
    display and keyboard; `boot_seconds`, from the start of QEMU until the guest was ready, and `boot_phases`, the same
    in parts where systemd tells them, for a copy those of the guest that booted; `closed`, whether `close` was called;
    `folder`, the machine's own on the host, the only one that a sealed QEMU may write to, and gone when it is closed.
    After `reset` and `restore`, `qmp`, `console`, `screen` and `folder` are others.
    """

    def __init__(self, instance: Instance, keeper: Keeper, *, progress: Progress, is_ready: bool) -> None:
        super().__init__(instance, keeper, progress=progress, is_ready=is_ready)
        self.config = instance.config
        self.handed_over = 0.0
        """When the present test got it, in seconds since the epoch."""
        self.closed = False

    def _enter(self, instance: Instance) -> None:
        super()._enter(instance)
        self.qmp, self.console, self.screen = instance.qmp, instance.console, instance.screen
        self.folder = instance.folder
        self.boot_phases = instance.boot_phases

    def _follow(self, old: Instance, new: Instance, how: str, *, to: float = 0.0) -> None:
        for disk in self.disks.values() if self.has_used_disks else ():
            disk.look()  # what its faults have met so far, which only that QEMU knows
        super()._follow(old, new, how, to=to)

    def begin_test(self) -> None:
        """A test gets the machine: what is told of it as that test's is what comes from now on."""
        self.handed_over = time.time()
        self.results.clear()
        self.latest_changes = None
        self.console.begin_test()

    @property
    def history(self) -> History:
        """What was done to the machine and what it reported, with times: the last 5000 entries."""
        return self._history

    @property
    def trouble(self) -> VmError | None:
        """What brought the guest to its end, if something did since its last start: a panic, a reset that nobody asked
        for, a disk that cannot be written, the end of QEMU; but not a pause.
        """
        return self.loop.run(self.instance.trouble())

    def __repr__(self) -> str:
        return f"<VirtualMachine {self.name} pid={self.pid}{'' if self.is_running() else ' ended'}>"

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self.instance.process.pid

    @cached_property
    def disks(self) -> "Mapping[str, VirtualDisk]":
        """All its disks by their names; that of the setting ``image`` is ``disk0``."""
        from pytest_readonly_vm.machine.virtual_disk import VirtualDisk

        return {disk.name: VirtualDisk(self, disk.name) for disk in self.instance.disks}

    @property
    def has_used_disks(self) -> bool:
        """Whether anybody has asked for `disks`."""
        return "disks" in vars(self)

    @property
    def disk(self) -> "VirtualDisk":
        """Its first disk: that of the setting ``image``, else the first of ``disks``.

        :raises VmError: it has none.
        """
        for disk in self.disks.values():
            return disk
        raise VmError(f"{self.name}: the machine has no disk; see the settings image and disks")

    @property
    def overlay(self) -> Path | None:
        """The qcow2 file that takes the guest's writes with ``snapshot=overlay``; None with a temporary snapshot."""
        return self.instance.overlay

    @property
    def command_line(self) -> str:
        """How QEMU was started, quoted for a shell. Its descriptor numbers mean something only to that process."""
        return self.instance.process.command_line()

    @property
    def stderr(self) -> str:
        """What QEMU complained about, at most its last 256 KiB."""
        return self.instance.process.stderr()

    @property
    def boot_seconds(self) -> float:
        """From the start of QEMU until the guest was ready."""
        return self.instance.ready_after

    @property
    def manner(self) -> str:
        """How the machine came to be: ``boot``, ``clone`` or ``capsule``."""
        return self.instance.manner

    @property
    def reason(self) -> str:
        """Why it came to be in no better way, if there is a reason."""
        return self.instance.reason

    @property
    def accelerator(self) -> str:
        """By what it runs, and why by that: ``tcg (asked for by --vm-accel)``."""
        return self.instance.spec.hypervisor.accelerator.describe()

    @property
    def firmware(self) -> str:
        """What boots it, and why that: ``uefi, as the image has BOOTX64.EFI …``; see the setting ``firmware``."""
        return self.instance.spec.firmware.describe()

    @property
    def slowness(self) -> float:
        """By how much times that are meant for fast computers are to be multiplied for it: see ``timeout_factor``."""
        return self.instance.spec.slowness

    def seconds_since_start(self) -> float:
        """How long ago QEMU was started."""
        return time.monotonic() - self.instance.started

    def is_running(self) -> bool:
        """Whether the QEMU process is there (the guest in it may be paused or have hung)."""
        return self.instance.process.returncode is None

    def kill(self) -> None:
        """Pull the plug: SIGKILL to QEMU. Returns when the process is gone; whoever waits gets `GuestDied`."""
        self.instance.process.kill()

    # Life.

    def pause(self) -> None:
        """Stop the guest's processors, and all waits for the guest; `resume` lets it go on as if nothing had been."""
        self.qmp.execute("stop")

    def resume(self) -> None:
        """Let a guest go on that stands still, for whatever reason; one that is suspended to RAM is woken.

        :raises QmpError: it cannot: its virtual processor has failed, or it has shut down.
        """
        self.loop.run(self.instance.go_on())

    def reboot(self, *, wait: bool = True, hard: bool = False, timeout: float = 300.0) -> None:
        """Have the guest shut down in good order and boot again; return when it has, and a channel answers.

        :param hard: press the reset button instead: the guest boots again without having shut down.
        :raises WaitTimeout: it has not within `timeout` seconds.
        :raises ChannelError: no channel answers, by which it could be asked or heard; see `hard` and `wait`.
        """
        deadline = time.monotonic() + timeout
        before = self.boot_id() if not hard or (wait and self._liveness.cause is None) else ""
        if hard:
            self.qmp.execute("system_reset")
            self.qmp.execute("cont")  # one that has panicked stands still
        else:
            with contextlib.suppress(ChannelLost):
                # An init that is a script does not mind being asked.
                asked = "(sleep 0.2; reboot; sleep 10; sync; reboot -f) >/dev/null 2>&1 &"
                self.run(asked, timeout=timeout)
        if wait:
            self.wait_for_boot(before, max(round(deadline - time.monotonic(), 1), 0.0))

    def powerdown(self, *, wait: bool = True, timeout: float = 120.0) -> None:
        """Press the power button, again until the guest reacts; return when it has shut down, QEMU with it.

        :raises VmError: RISC-V machines have none; as a `WaitTimeout`: it runs on after `timeout` seconds.
        """
        press = self.instance.power_down(timeout=timeout) if wait else self.qmp.command("system_powerdown")
        with contextlib.suppress(GuestShutDown):
            self.loop.run(self._liveness.race(press) if wait else press)

    def expect_panic(self, timeout: float = 60.0) -> contextlib.AbstractContextManager[Panic]:
        """A context in which the guest is to panic; when it has, the rest of the context is left, without an error.

        The guest stands still afterwards, or reboots if it is made to: look at its console and screen, then `reset`.

        :param timeout: seconds that it may take once the end of the context is reached.
        :raises WaitTimeout: it has not panicked by then.
        """
        return expecting_panic(self.instance, self.loop, timeout)

    def export(self, path: str | os.PathLike[str], *, format: str = "qcow2", timeout: float = 600.0) -> None:
        """Write the first disk to a new image; see `VirtualDisk.export`."""
        self.disk.export(path, format=format, timeout=timeout)

    def close(self, *, keep_overlay_as: Path | None = None) -> None:
        """End the machine and remove its files; a second call does nothing.

        QEMU is asked to quit, then told by SIGTERM, then killed, each with its own deadline. With `keep_overlay_as` the
        guest is first asked to shut down by its power button (30 s), so that what it wrote is on its disk, and the
        overlay is moved to that path.

        :raises VmError: the process survived all of that, or the overlay could not be kept.
        """
        if self.closed:
            return
        self._check_is_ready("close")
        self.closed = True
        self.checkpoints.forget_all()
        self.leave_networks()
        instance = self.instance
        try:
            lower = copies(instance.frozen_overlays) if keep_overlay_as is not None else {}
            try:
                self.loop.run(instance.end(powerdown=keep_overlay_as is not None))
                if keep_overlay_as is not None and instance.overlay is not None:
                    keep_overlay(instance, keep_overlay_as, lower.get(DISK, ()))
            finally:
                close_all(lower)
        except TimeoutError as error:
            raise VmError(f"{self.name}: {error}") from None
        except OSError as error:
            raise VmError(f"{self.name}: its overlay cannot be kept as {keep_overlay_as}: {error.strerror}") from None
        finally:
            instance.remove_folder()
