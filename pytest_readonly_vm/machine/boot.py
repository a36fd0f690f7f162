"""Owns a boot: from QEMU's first sign of life to a guest that is ready, and what is said when it does not get there."""

import asyncio
import time
import warnings

from pytest_readonly_vm.errors import BootTimeout, GuestDied, GuestWarning
from pytest_readonly_vm.machine.commands import Commands
from pytest_readonly_vm.machine.instance import Instance
from pytest_readonly_vm.machine.launch import Order, greet
from pytest_readonly_vm.machine.login import Login
from pytest_readonly_vm.machine.readiness import Booting, Readiness, readiness


def boot(order: Order, instance: Instance) -> None:
    """Greet QEMU, then wait until its guest is ready; a systemd that is degraded is a `GuestWarning`.

    :raises StartFailed: QEMU ended or stayed silent.
    :raises GuestDied: it ended while the guest was booting.
    :raises BootTimeout: the guest did not become ready within ``config.boot_timeout``.
    """
    config, access = order.config, instance.access
    guest = Booting(order.handle(instance), instance.qmp, instance.console, access, Commands(access, instance.name))
    typing = config.channel in ("auto", "shell") and (config.provision != "none" or config.login is not None)
    login = Login(config, instance.console, access) if typing else None
    order.loop.run(_boot(guest, instance, readiness(config.ready), login))
    instance.boot_phases = guest.phases
    instance.ready_after = time.monotonic() - instance.started
    if guest.failed_units:
        warnings.warn(f"{instance.name}: failed units: {', '.join(guest.failed_units)}", GuestWarning, stacklevel=2)


async def _boot(guest: Booting, instance: Instance, ready: Readiness, login: Login | None) -> None:
    process, config = instance.process, instance.config
    await greet(instance)
    try:
        async with asyncio.timeout(config.boot_timeout):
            await _ready(guest, ready, login)
            await allow_reboots(instance)
    except GuestDied:
        raise process.with_evidence(_boot_failure(instance)) from None
    except TimeoutError:
        raise process.with_evidence(_boot_timeout(instance, ready, login)) from None
    instance.qmp.forget_events()


async def allow_reboots(instance: Instance) -> None:
    """From when a guest is ready it may reboot; see the command line for before."""
    await instance.qmp.command("set-action", {"reboot": "reset"})


async def _ready(guest: Booting, ready: Readiness, login: Login | None) -> None:
    """Wait, and meanwhile answer the console's prompts if that may lead to a channel."""
    typing = asyncio.ensure_future(login.run()) if login is not None else None
    try:
        await ready.wait(guest)
    finally:
        if typing is not None:
            typing.cancel()
            await asyncio.gather(typing, return_exceptions=True)


def _boot_failure(instance: Instance) -> GuestDied:
    reasons = [event.data.get("reason") for event in instance.qmp.events if event.name == "SHUTDOWN"]
    because = f" ({reasons[-1]})" if reasons else ""
    verdict = instance.process.verdict()
    failure = GuestDied(f"{instance.name}: the guest ended while booting{because}: QEMU {verdict}")
    if "guest-reset" in reasons:
        failure.add_note("A reset while booting is a crash (a triple fault, a panic) or a reboot without end.")
    return failure


def _boot_timeout(instance: Instance, ready: Readiness, login: Login | None) -> BootTimeout:
    config, access = instance.config, instance.access
    timeout = BootTimeout(
        f"{instance.name}: the guest was not ready within {config.boot_timeout:g} s (boot_timeout, from "
        f"{config.origin('boot_timeout')}): waited for {ready.describe()}"
    )
    if access.found is None and access.is_possible:
        timeout.add_note(f"No channel answered: {access.why_none()}")
    if login is not None and login.refusal:
        timeout.add_note(f"Login at the console: {login.refusal}")
    if not instance.console.tail():
        timeout.add_note(
            "A Linux guest uses its serial console when its kernel command line has console=ttyS0; with ready=none a "
            "guest counts as ready at once."
        )
    return timeout
