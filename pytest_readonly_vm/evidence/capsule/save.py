"""Owns the saving of a machine, as it is at this moment, to one file.

The guest stands still meanwhile, and nothing else is done to it. The base is not saved but known by its SHA-256.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels.console import Transcript
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config.qemu_args import what_no_copy_has
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import QmpError, VmError, WaitTimeout
from pytest_readonly_vm.evidence.capsule.file import CapsuleWriter, new_capsule
from pytest_readonly_vm.evidence.capsule.manifest import (
    EMBEDDED,
    Manifest,
    SavedFirmware,
    devices_of,
    settings_of,
)
from pytest_readonly_vm.evidence.capsule.processor import features
from pytest_readonly_vm.evidence.capsule.saved_disk import BaseLayer, SavedDisk, member
from pytest_readonly_vm.host.loop import LoopThread, within
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.machine.root_shell import RootShell
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.qemu.disk_spec import DiskSpec
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.migration import Unfrozen, go_on, migrated, set_capabilities
from pytest_readonly_vm.start.template import written_file

SUFFIX = ".vmcapsule"
"""What the name of a capsule ends with."""

_PATIENCE = 120.0
_PATIENCE_IN_THE_END = 10.0
_FULL_SPEED = 10**12  # bytes per second; the default is 128 MiB
_STATE = "capsule"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What QEMU says of a guest that stands still."""

    status: str
    is_running: bool
    """Whether it was, before it was stopped for this."""
    machine: str
    virtual_sizes: dict[str, list[int]]
    """Of the files of each disk, the topmost first."""
    written: dict[str, Path]
    """The file that takes the guest's writes, of each."""
    cpu: tuple[str, ...]
    conversation: tuple[str, Any] | None
    transcript: Transcript


def save_capsule(vm: VirtualMachine, path: Path, *, test: str = "", timeout: float = _PATIENCE) -> None:
    """Save a machine to a new file, or in place of an old one; ``readonly-vm resume`` starts it again.

    A guest that runs stands still meanwhile, and goes on. One that does not stays as it is.

    :param test: what failed, for whoever resumes.
    :param timeout: seconds that it may take.
    :raises WaitTimeout: it took longer.
    :raises GuestDied: QEMU has ended.
    :raises VmError: something of the machine cannot be saved, or the file cannot be written. Nothing is left of it.
    """
    instance, loop = vm.instance, vm.loop
    deadline = time.monotonic() + timeout
    if reason := what_no_copy_has(instance.config.qemu_args):
        raise VmError(f"{vm.name}: the machine cannot be saved: {reason}")
    try:
        instance.output_guard.refuse(path)
        digests = {disk.name: [file.sha256(deadline=deadline) for file in disk.chain] for disk in instance.spec.disks}
        cdrom = _layer_of_cd(instance.spec.cd, deadline) if instance.spec.cd else None
        with new_capsule(path, deadline=deadline) as capsule, _standstill(loop, instance, deadline) as moment:
            _write(capsule, loop, instance, moment, digests, cdrom, test)
    except (Unfrozen, QmpError) as error:
        raise VmError(f"{vm.name}: the machine cannot be saved: {error}") from None
    except TimeoutError:
        raise WaitTimeout(f"{vm.name}: the capsule was not complete within {timeout:g} s") from None
    except OSError as error:
        raise VmError(f"{vm.name}: the capsule {path} cannot be written: {error.strerror or error}") from None


def _layer_of_cd(file: ImageFile, deadline: float) -> BaseLayer:
    size = file.fingerprint.size
    return BaseLayer(str(file.path), file.format, size, size, file.sha256(deadline=deadline))


@contextlib.contextmanager
def _standstill(loop: LoopThread, instance: Instance, deadline: float) -> Iterator[_Moment]:
    """Stop the guest; in the end it goes on, if it ran."""
    moment = loop.run(_look(instance, deadline))
    with instance.qmp.liveness.expecting_stop():
        try:
            loop.run(within(deadline - time.monotonic(), instance.qmp.command("stop")))
            yield moment
        finally:
            with contextlib.suppress(VmError, TimeoutError):  # a QEMU that has ended or hangs shows that to all
                loop.run(within(_PATIENCE_IN_THE_END, _let_go(instance, moment)))


async def _let_go(instance: Instance, moment: _Moment) -> None:
    await instance.qmp.attempt("migrate_cancel")
    if moment.is_running:
        await go_on(instance.qmp)


async def _look(instance: Instance, deadline: float) -> _Moment:
    """:raises Unfrozen: the machine is another than its configuration says."""
    async with asyncio.timeout(deadline - time.monotonic()):
        qmp, channel = instance.qmp, instance.channels.found
        await instance.place_cards()
        await _require_devices_of_ours(instance)
        status = await qmp.command("query-status")
        kind = await qmp.command("qom-get", {"path": "/machine", "property": "type"})
        return _Moment(
            status=status["status"],
            is_running=status["running"],
            machine=kind.removesuffix("-machine"),
            virtual_sizes={disk.name: await disk.virtual_sizes(qmp) for disk in instance.disks},
            written={disk.name: await written_file(instance, disk) for disk in instance.disks},
            cpu=await features(qmp),
            # An SSH connection's other end is on the host, of which no copy is made; it is left alone.
            conversation=await instance.channels.part() if channel is not None and channel.name != "ssh" else None,
            transcript=instance.console.transcript(),
        )


async def _require_devices_of_ours(instance: Instance) -> None:
    """:raises Unfrozen: somebody has plugged in a device that a machine of this configuration does not have."""
    if out := [disk.name for disk in instance.disks if disk.is_out]:
        raise Unfrozen(f"the disk {out[0]} is taken out; plug it in first")
    await RootShell(instance).unplug()  # which is one
    named = await instance.qmp.command("qom-list", {"path": "/machine/peripheral"})
    devices = {item["name"] for item in named if item["type"].startswith("child<")}
    known = {word[3:] for argument in instance.process.argv for word in argument.split(",") if word.startswith("id=")}
    known |= {card.device for card in instance.cards}
    if plugged := sorted(devices - known):
        raise Unfrozen(f"it has devices that were plugged in while it ran: {', '.join(plugged)}")


def _write(
    capsule: CapsuleWriter,
    loop: LoopThread,
    instance: Instance,
    moment: _Moment,
    digests: dict[str, list[str]],
    cdrom: BaseLayer | None,
    test: str,
) -> None:
    capsule.add("console.log", moment.transcript.data)
    sizes = {"state": _write_state(capsule, loop, instance.qmp)}
    with ExitStack() as opened:
        files = {**_disks(instance, moment, opened), **_embedded(instance, opened)}
        sizes |= {name: capsule.add_packed(name, descriptor) for name, descriptor in files.items()}
    qemu, firmware = instance.spec.hypervisor.qemu, instance.spec.firmware
    manifest = Manifest(
        settings=settings_of(instance.config),
        disks=tuple(_saved_disk(disk, moment, digests[disk.name]) for disk in instance.spec.disks),
        cdrom=cdrom,
        qemu=qemu.version,
        arch=qemu.arch,
        accelerator=instance.spec.hypervisor.accelerator.name,
        machine=moment.machine,
        devices=devices_of(instance.process.argv),
        status=moment.status,
        is_running=moment.is_running,
        cpu=moment.cpu,
        has_named_ram=instance.has_named_ram,
        cards=tuple(instance.cards),
        firmware=(SavedFirmware(firmware.kind, firmware.flash, firmware.needs_smm) if firmware.is_in_state else None),
        conversation=moment.conversation,
        unread=len(moment.transcript.unread),
        sizes=sizes,
        name=instance.name,
        test=test,
        saved=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    capsule.add("manifest.json", manifest.to_json())


def _write_state(capsule: CapsuleWriter, loop: LoopThread, qmp: Qmp) -> int:
    """Have QEMU write RAM and devices, through a pipe, as in memory there may be no room for them; how many bytes.

    :raises Unfrozen: something of the machine cannot be saved.
    """
    out, into = os.pipe()
    try:
        try:
            loop.run(_begin(qmp, into))
        finally:
            os.close(into)
        size = capsule.add_packed("state", out)
    finally:
        os.close(out)
    loop.run(_completed(qmp))
    return size


async def _begin(qmp: Qmp, into: int) -> None:
    with contextlib.suppress(WaitTimeout):
        while True:  # the end of one that was cancelled must not be taken for that of ours
            await qmp.next_event("MIGRATION", timeout=0)
    await set_capabilities(qmp, without_shared_ram=False)
    await qmp.command("migrate-set-parameters", {"max-bandwidth": _FULL_SPEED})
    await qmp.give(into, _STATE)
    try:
        await qmp.command("migrate", {"uri": f"fd:{_STATE}"})
    except QmpError as error:
        await qmp.attempt("closefd", {"fdname": _STATE})
        raise Unfrozen(error.description) from None


async def _completed(qmp: Qmp) -> None:
    if (await migrated(qmp)).data["status"] != "completed":
        raise Unfrozen((await qmp.command("query-migrate")).get("error-desc", "QEMU does not say why"))


def _saved_disk(disk: DiskSpec, moment: _Moment, digests: list[str]) -> SavedDisk:
    virtual_sizes = moment.virtual_sizes[disk.name][-len(digests) :] if digests else []
    image = tuple(
        BaseLayer(str(file.path), file.format, file.fingerprint.size, size, digest)
        for file, size, digest in zip(disk.chain, virtual_sizes, digests, strict=True)
    )
    return SavedDisk(disk.name, disk.interface, disk.serial, disk.size or 0, image)


def _disks(instance: Instance, moment: _Moment, opened: ExitStack) -> dict[str, int]:
    """The files of the disks that are above their images, the topmost first; QEMU has written all of them by now."""
    found: dict[str, int] = {}
    for disk in instance.disks:
        topmost = _opened(moment.written[disk.name], opened)
        files = (topmost, *(file.descriptor for file in disk.frozen_overlays))
        found |= {member(disk.name, number): file for number, file in enumerate(files)}
    return found


def _embedded(instance: Instance, opened: ExitStack) -> dict[str, int]:
    """The files that are needed to build the machine again, and the key by which the guest lets us in."""
    config: VmConfig = instance.config
    paths = {name: getattr(config, name) for name in EMBEDDED}
    if config.channel == "ssh" and instance.ssh_key is not None:
        paths |= {"ssh-key": instance.ssh_key, "ssh-key.pub": instance.ssh_key.with_suffix(".pub")}
    return {name: _opened(path, opened) for name, path in paths.items() if path is not None}


def _opened(path: Path, opened: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor
