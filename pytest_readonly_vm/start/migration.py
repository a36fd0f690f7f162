"""Owns the state of a guest's devices as QEMU writes and reads it: a migration that goes to a file and comes from one.

How QEMU does it: https://www.qemu.org/docs/master/devel/migration/main.html (``x-ignore-shared``: shared RAM is left
where it is).
"""

import asyncio
import os

from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
from pytest_readonly_vm.errors import QmpError, StartFailed
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.pending_interrupts import forgets_interrupt

_PATIENCE = 120.0
_FULL_SPEED = 10**12  # bytes per second; the default is 128 MiB
_STATE = "state"


class Unfrozen(Exception):
    """A machine cannot be frozen, for a reason that is the exception's text; if it is running, it runs on."""


class InterruptPending(Unfrozen):
    """A machine cannot be frozen at this moment; it can, once its guest has run on a little."""


async def save_state(instance: Instance, *, without_shared_ram: bool) -> int:
    """Have a stopped QEMU write its state into sealed memory; a descriptor of that. On the loop.

    :raises Unfrozen: something of the machine cannot be saved.
    """
    qmp = instance.qmp
    state = os.memfd_create("guest-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        try:
            await set_capabilities(qmp, without_shared_ram=without_shared_ram)
            await qmp.command("migrate-set-parameters", {"max-bandwidth": _FULL_SPEED})
            await qmp.command("migrate", {"uri": await _way_to(qmp, state)})
        except QmpError as error:
            raise Unfrozen(error.description) from None
        if (await migrated(qmp)).data["status"] != "completed":
            reason = (await qmp.command("query-migrate")).get("error-desc", "QEMU does not say why")
            raise Unfrozen(str(reason))
        if forgets_interrupt(instance, state):
            raise InterruptPending("an interrupt is pending in the guest, which QEMU does not save; let the guest run")
    except BaseException:
        os.close(state)
        raise
    return state


async def load_state(instance: Instance, state: int, *, without_shared_ram: bool, what: str) -> None:
    """Have a QEMU that waits for it read the state that it has inherited as this descriptor. On the loop.

    :param what: what that is, for the message.
    :raises StartFailed: QEMU refuses it.
    """
    qmp = instance.qmp
    await set_capabilities(qmp, without_shared_ram=without_shared_ram)
    await qmp.command("migrate-incoming", {"uri": await _way_from(qmp, state)})
    if (await migrated(qmp)).data["status"] != "completed":
        reason = (await qmp.command("query-migrate")).get("error-desc", "it does not say why")
        raise StartFailed(f"{instance.name}: QEMU did not accept {what}: {reason}")


async def _way_to(qmp: Qmp, state: int) -> str:
    """Where ``migrate`` is to write to reach a file that we have open."""
    if not await _migrates_files(qmp):
        await qmp.give(state, _STATE)
        return f"fd:{_STATE}"
    written = os.open(f"/proc/self/fd/{state}", os.O_WRONLY | os.O_CLOEXEC)  # it takes no descriptor that reads as well
    try:
        return f"file:/dev/fdset/{await qmp.hand_over(written)}"
    finally:
        os.close(written)


async def _way_from(qmp: Qmp, state: int) -> str:
    """From where ``migrate-incoming`` is to read a file that QEMU has inherited as this descriptor; on the loop."""
    return f"file:/proc/self/fd/{state}" if await _migrates_files(qmp) else f"fd:{state}"


async def _migrates_files(qmp: Qmp) -> bool:
    """Whether QEMU has ``file:`` for what ``fd:`` is deprecated since 9.1 and refused since 11.0.

    It has, if it has mapped-ram, which works by nothing else; that answer is small, unlike QMP's whole schema.
    """
    return any(one["capability"] == "mapped-ram" for one in await qmp.command("query-migrate-capabilities"))


async def set_capabilities(qmp: Qmp, *, without_shared_ram: bool) -> None:
    wanted = {"events": True, "x-ignore-shared": without_shared_ram}
    capabilities = [{"capability": name, "state": state} for name, state in wanted.items()]
    await qmp.command("migrate-set-capabilities", {"capabilities": capabilities})


async def migrated(qmp: Qmp) -> QmpEvent:
    """The event of the end of a migration, be it well or not."""

    def is_end(event: QmpEvent) -> bool:
        return event.data.get("status") in ("completed", "failed", "cancelled")

    return await qmp.next_event("MIGRATION", is_end, _PATIENCE)


async def go_on(qmp: Qmp) -> None:
    """Let the guest run again, which QEMU refuses for a moment after it has told that it is done, without an event."""
    while (await qmp.command("query-status"))["status"] == "finish-migrate":
        await asyncio.sleep(0.001)
    await qmp.command("cont")
