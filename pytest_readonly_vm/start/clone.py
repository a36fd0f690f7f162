"""Owns the start of a machine from a template: a fresh QEMU that goes on from where the template's guest was frozen."""

import os
import time

from pytest_readonly_vm.errors import GuestDied, StartFailed
from pytest_readonly_vm.guest.boot import allow_reboots
from pytest_readonly_vm.qemu.command_line import RamWire
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState, Order, greet, launch
from pytest_readonly_vm.start.cold import give_up
from pytest_readonly_vm.start.resume import resume
from pytest_readonly_vm.start.template import Template, copies, migrated, set_capabilities, way_from

_ANNOUNCEMENT = {"announce-rounds": 1, "announce-initial": 100_000, "announce-max": 100_000}  # milliseconds


def clone(order: Order, template: Template, *, ram: int | None = None, freezable: bool = False) -> Instance:
    """Start a machine from a template, and return when its guest runs and is repaired.

    :param freezable: whether it is to be frozen in its turn: the guest writes to `ram`, memory with the content of the
        template's, and to a named file on its disk. Otherwise what it writes to is private to its QEMU.
    :raises StartFailed: QEMU did not come up or did not accept the template.
    """
    wire = None
    if template.has_named_ram:
        private = ram is None and template.ram is not None
        wire = RamWire(template.ram if private else ram, writable=not private)
    state = template.open_state()
    try:
        initial = InitialState(
            overlays=copies(template.overlays),
            named_overlay=freezable or order.config.snapshot == "overlay",
            ram=wire,
            state=state,
            transcript=template.transcript,
            ssh_key=template.ssh_key,
        )
        instance = launch(order, initial)
    finally:
        os.close(state)
    try:
        order.loop.run(_load(instance, template, state))
        resume(order, instance, template.conversation)
    except GuestDied:
        failure = StartFailed(f"{order.name}: QEMU did not accept the template: {instance.process.verdict()}")
        give_up(order, instance, failure)
        raise instance.process.with_evidence(failure) from None
    except BaseException as error:
        give_up(order, instance, error)
        raise
    instance.manner = "clone"
    instance.boot_phases = template.boot_phases
    instance.ready_after = time.monotonic() - instance.started
    return instance


async def _load(instance: Instance, template: Template, state: int) -> None:
    qmp = instance.qmp
    await greet(instance)
    await set_capabilities(qmp, without_shared_ram=template.ram is not None)
    if not any(argument in ("-netdev", "-nic") for argument in instance.config.qemu_args):
        # The guest would be told to announce itself to its network, in which nobody else is, and services react to it.
        # Once and late instead of five times at once; not at all is what QEMU 7.2 crashes of when the guest reboots.
        await qmp.command("migrate-set-parameters", _ANNOUNCEMENT)
    await qmp.command("migrate-incoming", {"uri": await way_from(qmp, state)})
    if (await migrated(qmp)).data["status"] != "completed":
        reason = (await qmp.command("query-migrate")).get("error-desc", "it does not say why")
        raise StartFailed(f"{instance.name}: QEMU did not accept the template: {reason}")
    await qmp.command("cont")
    await allow_reboots(instance)
    qmp.forget_events()
