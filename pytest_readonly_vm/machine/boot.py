"""Owns a boot: from QEMU's first sign of life to a guest that is ready, and what is said when it does not get there."""

import asyncio
import socket
import warnings

from pytest_readonly_vm.errors import BootTimeout, GuestDied, GuestWarning, StartFailed
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.machine.login import Login
from pytest_readonly_vm.machine.readiness import Booting, Readiness

_MONITOR_PATIENCE = 30.0


def boot(
    guest: Booting,
    process: Process,
    monitor: socket.socket,
    ready: Readiness,
    login: Login | None,
    loop: LoopThread,
) -> None:
    """Greet QEMU, then wait until its guest is ready; a systemd that is degraded is a `GuestWarning`.

    :raises StartFailed: QEMU ended or stayed silent.
    :raises GuestDied: it ended while the guest was booting.
    :raises BootTimeout: the guest did not become ready within ``config.boot_timeout``.
    """
    loop.run(_boot(guest, process, monitor, ready, login))
    if guest.failed_units:
        warnings.warn(f"{guest.vm.name}: failed units: {', '.join(guest.failed_units)}", GuestWarning, stacklevel=2)


async def _boot(
    guest: Booting, process: Process, monitor: socket.socket, ready: Readiness, login: Login | None
) -> None:
    vm = guest.vm
    try:
        async with asyncio.timeout(_MONITOR_PATIENCE):
            await vm.qmp.connect(monitor)
    except GuestDied:
        raise process.with_evidence(_start_failure(vm.name, process)) from None
    except TimeoutError:
        silence = StartFailed(f"{vm.name}: QEMU's monitor did not answer within {_MONITOR_PATIENCE:g} s")
        raise process.with_evidence(silence) from None
    try:
        async with asyncio.timeout(vm.config.boot_timeout):
            await _ready(guest, ready, login)
            await vm.qmp.command("set-action", {"reboot": "reset"})
    except GuestDied:
        raise process.with_evidence(_boot_failure(guest, process)) from None
    except TimeoutError:
        raise process.with_evidence(_boot_timeout(guest, ready, login)) from None
    vm.qmp.forget_events()


async def _ready(guest: Booting, ready: Readiness, login: Login | None) -> None:
    """Wait, and meanwhile answer the console's prompts if that may lead to a channel."""
    typing = asyncio.ensure_future(login.run()) if login is not None else None
    try:
        await ready.wait(guest)
    finally:
        if typing is not None:
            typing.cancel()
            await asyncio.gather(typing, return_exceptions=True)


def _start_failure(name: str, process: Process) -> StartFailed:
    failure = StartFailed(f"{name}: QEMU {process.verdict()}")
    if "Permission denied" in process.stderr():
        failure.add_note("QEMU may write only below its own folder; if it must write elsewhere, use seal=off")
    return failure


def _boot_failure(guest: Booting, process: Process) -> GuestDied:
    reasons = [event.data.get("reason") for event in guest.qmp.events if event.name == "SHUTDOWN"]
    because = f" ({reasons[-1]})" if reasons else ""
    failure = GuestDied(f"{guest.vm.name}: the guest ended while booting{because}: QEMU {process.verdict()}")
    if "guest-reset" in reasons:
        failure.add_note("A reset while booting is a crash (a triple fault, a panic) or a reboot without end.")
    return failure


def _boot_timeout(guest: Booting, ready: Readiness, login: Login | None) -> BootTimeout:
    config = guest.vm.config
    timeout = BootTimeout(
        f"{guest.vm.name}: the guest was not ready within {config.boot_timeout:g} s (boot_timeout, from "
        f"{config.origin('boot_timeout')}): waited for {ready.describe()}"
    )
    if guest.access.found is None and guest.access.is_possible:
        timeout.add_note(f"No channel answered: {guest.access.why_none()}")
    if login is not None and login.refusal:
        timeout.add_note(f"Login at the console: {login.refusal}")
    if not guest.console.tail():
        timeout.add_note(
            "A Linux guest uses its serial console when its kernel command line has console=ttyS0; with ready=none a "
            "guest counts as ready at once."
        )
    return timeout
