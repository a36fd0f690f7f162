"""Owns one QEMU process with everything that is connected to it, and the orderly end of all that."""

import asyncio
import contextlib
import re
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels.choice import ChannelChoice
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.network import Network
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.channels.screen import Screen
from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import VmError, WaitTimeout
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.base_lines import BaseLines
from pytest_readonly_vm.qemu.board import has_power_button, virtio_bus
from pytest_readonly_vm.qemu.card import Card, found_place
from pytest_readonly_vm.qemu.disk_spec import Overlays, close_all
from pytest_readonly_vm.qemu.spec import MachineSpec

_POWERDOWN_PATIENCE = 30.0
_QUIT_PATIENCE = 2.0
_GOODBYE_PATIENCE = 10.0  # for the connections, once there is nobody at their other end

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 16.0  # between two presses of the power button
_PRESS_PATIENCE = 5.0

# Of systemd, sysvinit, OpenRC, BusyBox and the BSDs.
_SHUTTING_DOWN = re.compile(
    r"Stopp(?:ing|ed) |Unmount|[Pp]ower(?:ing)? (?:off|down)|going down|system (?:will|is) |SIGTERM|"
    r"Sw?itching to runlevel|Shutting down|shutdown"
)


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """One run of QEMU. A `VirtualMachine` has one at a time, and another after a reset.

    Whoever ends it also removes its folder.
    """

    spec: MachineSpec
    """What was wanted."""
    process: Process
    monitor: socket.socket
    """Our end of the line to the monitor; `qmp` takes it over when it connects."""
    lines: dict[str, socket.socket]
    """Our ends of the lines to the console and to the ports of channels, of which these have copies.

    A port stays open when its channel is closed, as in the guest the end of a line ends the program that reads it.
    """
    qmp: Qmp
    console: Console
    screen: Screen
    network: Network
    channels: ChannelChoice
    make_ssh: Callable[[], Ssh]
    folder: Path
    """Its own; it goes with it."""
    output_guard: OutputGuard
    """The way to places of the user's."""
    disks: tuple[AttachedDisk, ...]
    """That of the image first; descriptors of frozen overlays are closed at the end."""
    human_monitor: Path | None
    ssh_key: Path | None
    """The key that the guest was given when it booted."""
    has_named_ram: bool
    """Whether its RAM is the object ``ram``, which is so in all copies then."""
    base_lines: BaseLines
    """Those to files on the network."""
    cards: list[Card] = field(default_factory=list)
    """On private networks, as they are plugged in now."""
    tpm: Process | None = None
    """What emulates its TPM."""
    on_end: list[Callable[[], None]] = field(default_factory=list)
    """Called when it has ended, the last first."""
    started: float = field(default_factory=time.monotonic)
    manner: str = "boot"
    """How it came to be: ``boot``, ``clone``, ``capsule``."""
    origin: Any = None
    """What it has gone on from, a `Template`, if that is kept."""
    reason: str = ""
    """Why it did not come to be in a better way, if there is one."""
    ready_after: float = 0.0
    """Seconds from the start of QEMU until the guest was ready."""
    boot_phases: dict[str, float] = field(default_factory=dict)
    ssh: Ssh | None = None
    """A connection beside the channel in use, once somebody wanted one."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def frozen_overlays(self) -> Overlays:
        """Of each disk, the files between those of its image and the one that the guest writes to."""
        return {disk.name: disk.frozen_overlays for disk in self.disks}

    @property
    def overlay(self) -> Path | None:
        """The named file that takes what the guest writes to the image's disk; None for one without a name."""
        return next((disk.overlay for disk in self.disks if disk.name == DISK), None)

    @property
    def is_alive(self) -> bool:
        """Whether its QEMU has not ended."""
        return self.process.returncode is None

    @property
    def config(self) -> VmConfig:
        return self.spec.config

    async def trouble(self) -> VmError | None:
        """What brought the guest to its end, if something did; on the loop."""
        if (cause := self.qmp.liveness.trouble) is not None:
            return cause()
        return None if self.process.returncode is None else self.process.death()

    async def place_cards(self) -> None:
        """Find out where its cards are, to be found there again; on the loop."""
        bus = virtio_bus(self.config, self.spec.hypervisor.qemu.arch)
        self.cards = [
            card if card.place else replace(card, place=await found_place(self.qmp, card, bus)) for card in self.cards
        ]

    async def go_on(self) -> None:
        """Let the guest run, whatever it stands still for; on the loop.

        :raises QmpError: it cannot.
        """
        if not await self._is_suspended():
            await self.qmp.command("cont")
        if await self._is_suspended():  # as it had been when it was paused
            await self.qmp.command("system_wakeup")
            self.qmp.liveness.go_on()  # of which QEMU tells a little later

    async def _is_suspended(self) -> bool:
        return bool((await self.qmp.command("query-status"))["status"] == "suspended")

    async def allow_reboots(self) -> None:
        """From when a guest is ready it may reboot; see the command line for before. On the loop."""
        await self.qmp.command("set-action", {"reboot": "reset"})

    async def power_down(self, *, timeout: float) -> None:
        """Press the guest's power button, ever less often until it reacts, and wait for the end of QEMU; on the loop.

        A press is lost where nobody in the guest listens yet: QEMU keeps none for a guest that has not enabled the
        button, and a Linux passes none on to a logind or acpid that opens its device later.

        :raises WaitTimeout: it runs on after `timeout` seconds.
        :raises VmError: QEMU does not take the command, or the machine has no such button.
        """
        if not has_power_button(arch := self.spec.hypervisor.qemu.arch):
            raise VmError(f"{self.name}: {arch} machines have no power button; have the guest run poweroff instead")
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + timeout, _FIRST_PAUSE
        heard, position = self.qmp.heard, self.console.position
        await self.qmp.command("system_powerdown", timeout=_PRESS_PATIENCE)
        while not await self.process.wait_ended(min(pause, max(deadline - clock(), 0.0))):
            if clock() >= deadline:
                late = WaitTimeout(f"{self.name}: the guest did not shut down within {timeout:g} s of its power button")
                late.add_note(f"Last console lines:\n{self.console.tail()}")
                raise late
            if self._is_shutting_down(heard, position):
                pause = timeout
            else:
                with contextlib.suppress(VmError):  # it may end in this moment
                    await self.qmp.command("system_powerdown", timeout=_PRESS_PATIENCE)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_shutting_down(self, heard: int, position: int) -> bool:
        """Whether QEMU's events from that one on, or the console from that position on, tell that the guest does."""
        # A channel that is closed now is one that the guest's init has ended.
        events = (event for event in self.qmp.events if event.number >= heard and event.name == "VSERPORT_CHANGE")
        is_channel_closed = any(not event.data.get("open") for event in events)
        return is_channel_closed or bool(_SHUTTING_DOWN.search(self.console.since(position)))

    async def end(self, *, powerdown: bool = False) -> None:
        """Ask QEMU to quit, tell it, kill it, each with its own deadline; on the loop.

        :param powerdown: whether to press the guest's power button before and give it time to shut down.
        Everything else is given back in any case.

        :raises TimeoutError: the process survived all of that.
        """
        with Cleanup() as cleanup:
            with cleanup.step():
                await self._say_goodbye(powerdown)
            with cleanup.step():
                await self.process.end()
            if self.tpm is not None:
                with cleanup.step():
                    await self.tpm.end()
            deadline = asyncio.get_running_loop().time() + _GOODBYE_PATIENCE
            for close in (
                *((self.ssh.close,) if self.ssh is not None else ()),
                self.channels.close,
                self.qmp.disconnect,
            ):
                with cleanup.step(), contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await close()
            for hang_up in (self.monitor.close, self.console.close, *(line.close for line in self.lines.values())):
                with cleanup.step():
                    hang_up()
            overlays = self.frozen_overlays
            for disk in self.disks:
                disk.frozen_overlays = ()
            with cleanup.step():
                close_all(overlays)
            while self.on_end:
                with cleanup.step():
                    self.on_end.pop()()

    async def _say_goodbye(self, powerdown: bool) -> None:
        if powerdown:
            with contextlib.suppress(VmError):
                await self.power_down(timeout=_POWERDOWN_PATIENCE)
        if await self._accepts("quit"):
            # Before QEMU hangs up: the library makes a traceback of every connection that is broken on it.
            await self.qmp.disconnect()
            await self.process.wait_ended(_QUIT_PATIENCE)

    async def _accepts(self, command: str) -> bool:
        """Give QEMU a command whose effect is its end; False if it has ended already or does not react."""
        try:
            await self.qmp.command(command, timeout=_QUIT_PATIENCE)
        except VmError:
            return False
        return True

    def remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
