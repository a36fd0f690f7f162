"""Owns a boot: from QEMU's first sign of life to a guest that is ready, and what is said when it does not get there."""

import asyncio
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pytest_readonly_vm.errors import BootTimeout, ChannelError, GuestDied, GuestPanicked, GuestReset, GuestWarning
from pytest_readonly_vm.guest.booting_guest import BootingGuest
from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.guest.login import Login, login
from pytest_readonly_vm.guest.nothing_booted import unless_nothing_boots
from pytest_readonly_vm.guest.readiness import Readiness, readiness
from pytest_readonly_vm.guest.stages import stage
from pytest_readonly_vm.host.loop import LoopThread, cancel
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import greet
from pytest_readonly_vm.qemu.spec import MachineSpec


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a guest may take to boot."""

    spec: MachineSpec

    @property
    def seconds(self) -> float:
        return self.spec.config.boot_timeout * self.spec.slowness

    def explain(self) -> str:
        """Where the number comes from."""
        config, slowness = self.spec.config, self.spec.slowness
        origin = f"boot_timeout, from {config.origin('boot_timeout')}"
        if slowness == 1:
            return origin
        accelerator = self.spec.hypervisor.accelerator.name
        return f"{origin}: {config.boot_timeout:g} s, times {slowness:g} for {accelerator}"


def boot(instance: Instance, *, loop: LoopThread, guest: Callable[[], Guest]) -> None:
    """Greet QEMU, then wait until its guest is ready; a systemd that is degraded is a `GuestWarning`.

    :param guest: makes what a user's function of readiness gets.
    :raises StartFailed: QEMU ended or stayed silent.
    :raises GuestDied: it ended while the guest was booting.
    :raises BootFailed: its firmware has booted nothing.
    :raises BootTimeout: the guest did not become ready within ``config.boot_timeout``.
    :raises ChannelError: it refuses the login that is set.
    """
    config, channels = instance.config, instance.channels
    commands = Commands(channels, instance.qmp.liveness, instance.name, slowness=instance.spec.slowness)
    booting = BootingGuest(instance, guest, commands)
    typist = login(config, instance.console, channels, instance.name)
    limit = Limit(instance.spec)
    with instance.qmp.history.noting("boot", "boot"):
        loop.run(_boot(booting, instance, readiness(config.ready), typist, limit))
    instance.boot_phases = booting.phases
    instance.ready_after = time.monotonic() - instance.started
    is_login_unused = config.ready == "auto" and config.login is not None and channels.found is None
    if is_login_unused and typist is not None and typist.refusal:
        said = f"{instance.name}: it shows a login prompt, and no channel answers: {typist.refusal}"
        warnings.warn(said, GuestWarning, stacklevel=2)
    if booting.failed_units:
        warnings.warn(f"{instance.name}: failed units: {', '.join(booting.failed_units)}", GuestWarning, stacklevel=2)


async def _boot(guest: BootingGuest, instance: Instance, ready: Readiness, typist: Login | None, limit: Limit) -> None:
    process = instance.process
    await greet(instance)
    try:
        async with asyncio.timeout(limit.seconds) as clock:
            guest.deadline = clock.when() or guest.deadline
            booted = unless_nothing_boots(instance, partial(_ready, guest, instance, ready, typist))
            await instance.qmp.liveness.race(booted)
            await instance.allow_reboots()
    except GuestDied as death:
        if instance.config.ready != "none":  # by which a guest that was started has booted, and may come to its end
            raise _boot_failure(instance, death) from None
    except TimeoutError:
        raise process.with_evidence(_boot_timeout(instance, ready, typist, limit)) from None
    instance.qmp.forget_events()
    if "-S" in instance.config.qemu_args:  # it has not been started, of which QEMU tells nothing
        instance.qmp.liveness.look()


async def _ready(guest: BootingGuest, instance: Instance, ready: Readiness, typist: Login | None) -> None:
    """Wait, and meanwhile answer the console's prompts if that may lead to a channel."""
    guest.typing = typing = asyncio.ensure_future(typist.run()) if typist is not None else None
    waiting = asyncio.ensure_future(ready.wait(guest))
    tasks = [waiting] if typing is None else [waiting, typing]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # A login that fails is an error, unless somebody has opened a port by which another way may lead to a channel.
        if typing is not None and typing.done() and not waiting.done() and not guest.has_open_port:
            refusal = typing.exception()
            if isinstance(refusal, ChannelError):
                raise instance.process.with_evidence(refusal)
        await waiting
    finally:
        await cancel(*tasks)


def _boot_failure(instance: Instance, death: GuestDied) -> GuestDied:
    said = str(death).removeprefix(f"{instance.name}: ")
    failure = type(death)(f"{instance.name}: while booting, {said}")
    if isinstance(failure, GuestPanicked) and isinstance(death, GuestPanicked):
        failure.panic = death.panic
    if isinstance(failure, GuestReset):
        failure.add_note("A reset while booting is a crash (a triple fault, a panic) or a reboot without end.")
    for note in getattr(death, "__notes__", ()):
        failure.add_note(note)
    return failure


def _boot_timeout(instance: Instance, ready: Readiness, typist: Login | None, limit: Limit) -> BootTimeout:
    channels = instance.channels
    error = BootTimeout(
        f"{instance.name}: the guest was not ready within {limit.seconds:g} s ({limit.explain()}): "
        f"waited for {ready.describe()}"
    )
    error.add_note(f"By its console, it got as far as {stage(instance.console.text)}.")
    if channels.found is None and channels.is_possible:
        error.add_note(f"No channel answered: {channels.why_none()}")
    if typist is not None and typist.refusal:
        error.add_note(f"Login at the console: {typist.refusal}")
    if not instance.console.tail():
        error.add_note(
            "A Linux guest uses its serial console when its kernel command line has console=ttyS0; with ready=none a "
            "guest counts as ready at once."
        )
    return error
