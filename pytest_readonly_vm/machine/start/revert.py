"""Owns the start by going back: one QEMU per kind of machine, set back to a snapshot of RAM and disk between tests.

The snapshot is in the file that takes the guest's writes. QEMU's commands for it:
https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (``snapshot-save``, ``snapshot-load``).
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_readonly_vm.channels.console import Transcript
from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
from pytest_readonly_vm.errors import ConfigurationError, VmError
from pytest_readonly_vm.machine.command_line import DISK
from pytest_readonly_vm.machine.instance import Instance
from pytest_readonly_vm.machine.launch import Order, connect
from pytest_readonly_vm.machine.start.cold import cold_start, discard, with_layers
from pytest_readonly_vm.machine.start.key import keys_of
from pytest_readonly_vm.machine.start.resume import resume
from pytest_readonly_vm.machine.start.template import prepare_copies

_TAG = "pristine"
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True, eq=False)
class _Parked:
    """A machine between two tests, and what was when its snapshot was taken."""

    order: Order
    instance: Instance
    node: str
    parts: str
    """What QEMU consists of; see `_parts`."""
    history: Transcript
    conversation: tuple[str, Mapping[str, Any]] | None


class Revert:
    """Machines that are used again. One that two tests want at once is two machines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parked: defaultdict[str, list[_Parked]] = defaultdict(list)

    def start(self, order: Order) -> Instance:
        # What is no part of a template's key but stays with the process.
        key = f"{keys_of(order)[-1]} {order.config.snapshot} {order.config.monitor}"
        while (parked := self._take(key)) is not None:
            try:
                return self._taken_back(order, key, parked)
            except VmError:  # what the last test has done to QEMU is in the way, such as a device that it plugged in
                discard(order.loop, parked.instance)
        instance = with_layers(order, cold_start(order))
        try:
            parked = order.loop.run(_saved(order, instance))
        except VmError as error:
            discard(order.loop, instance)
            raise ConfigurationError(f"{order.config.origin('start')}: start=revert is not possible: {error}") from None
        self._retire_to(order, key, parked)
        return instance

    def _take(self, key: str) -> _Parked | None:
        with self._lock:
            return self._parked[key].pop() if self._parked[key] else None

    def _retire_to(self, order: Order, key: str, parked: _Parked) -> None:
        def retire() -> bool:
            try:
                if order.loop.run(_parts(parked.instance.qmp)) != parked.parts:
                    return False  # a snapshot would not undo that
                order.loop.run(_let_go(parked.instance))
            except VmError:
                return False
            with self._lock:
                self._parked[key].append(parked)
            return True

        parked.instance.retire = retire

    def _taken_back(self, order: Order, key: str, parked: _Parked) -> Instance:
        started = time.monotonic()
        instance = order.loop.run(_loaded(order, parked))
        resume(order, instance, parked.conversation)
        self._retire_to(order, key, replace(parked, order=order, instance=instance))
        instance.manner = "revert"
        instance.started, instance.ready_after = started, time.monotonic() - started
        return instance

    def close(self) -> None:
        """End every machine that is between tests."""
        for parked in [one for several in self._parked.values() for one in several]:
            discard(parked.order.loop, parked.instance)
        self._parked.clear()


async def _saved(order: Order, instance: Instance) -> _Parked:
    qmp = instance.qmp
    disks = [device for device in await qmp.command("query-block") if device["device"] == DISK]
    if not disks:
        raise VmError("there is no disk to keep the snapshot in")
    node = disks[0]["inserted"]["node-name"]
    await prepare_copies(instance)
    conversation = await instance.access.part()
    await _job(qmp, "snapshot-save", node)
    qmp.forget_events()
    return _Parked(order, instance, node, await _parts(qmp), instance.console.transcript(), conversation)


async def _parts(qmp: Qmp) -> str:
    """What a test can plug into QEMU: devices, objects, chardevs, nodes of the block layer that have a name."""
    found = [await qmp.command("qom-list", {"path": f"/{path}"}) for path in ("machine/peripheral", "objects")]
    nodes = await qmp.command("query-named-block-nodes", {"flat": True})
    names = [node["node-name"] for node in nodes if not node["node-name"].startswith("#")]
    return repr((found, await qmp.command("query-chardev"), sorted(names)))


async def _let_go(instance: Instance) -> None:
    """Stop the guest and end what a test had of it, so that nobody can use it who should not any more."""
    await instance.qmp.command("stop")
    await instance.network.remove_forwards()
    await instance.access.close()
    if instance.ssh is not None:
        await instance.ssh.close()
        instance.ssh = None
    instance.console.detach()
    instance.qmp = instance.qmp.succeeded_by("between two tests")


async def _loaded(order: Order, parked: _Parked) -> Instance:
    """Set the guest back."""
    old = parked.instance
    qmp = old.qmp
    qmp.name = old.process.name = order.name
    for line in old.lines.values():
        _drain(line)
    await _job(qmp, "snapshot-load", parked.node)
    instance = connect(
        order,
        old.process,
        qmp,
        old.lines,
        folder=old.folder,
        history=parked.history,
        ssh_key=old.ssh_key,
        monitor=old.monitor,
        own_layers=old.own_layers,
        overlay=old.overlay,
        human_monitor=old.human_monitor,
        has_named_ram=old.has_named_ram,
        boot_phases=old.boot_phases,
        on_end=old.on_end,
    )
    await qmp.command("cont")
    qmp.forget_events()
    return instance


async def _job(qmp: Qmp, command: str, node: str) -> None:
    """Run a command that is a job to its end.

    :raises VmError: it failed.
    """
    job = f"{command}-{qmp.heard}"

    def is_over(event: QmpEvent) -> bool:
        return event.data.get("id") == job and event.data.get("status") == "concluded"

    arguments = {"job-id": job, "tag": _TAG, "vmstate": node, "devices": [node]}
    await qmp.command(command, arguments)
    await qmp.next_event("JOB_STATUS_CHANGE", is_over, _PATIENCE)
    [error] = [found.get("error") for found in await qmp.command("query-jobs") if found["id"] == job]
    await qmp.command("job-dismiss", {"id": job})
    if error:
        raise VmError(f"{qmp.name}: {command}: {error}")


def _drain(line: Any) -> None:
    """Take what the guest has said before, which nobody is to hear any more."""
    line.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while line.recv(1 << 16):
            pass
