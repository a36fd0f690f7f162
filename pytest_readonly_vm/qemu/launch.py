"""Owns the start of QEMU: its lines to us, its descriptors, its arguments, its confinement. What the guest does then,
boot or go on from a state, is the business of `start`.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels.agent import Agent
from pytest_readonly_vm.channels.channel import Channel
from pytest_readonly_vm.channels.choice import ChannelChoice
from pytest_readonly_vm.channels.console import NOTHING, Console, Transcript
from pytest_readonly_vm.channels.crash_detector import CrashDetector
from pytest_readonly_vm.channels.network import Network
from pytest_readonly_vm.channels.port import SHELL_PORT, Port, Shell
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.channels.screen import Screen
from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.config.qemu_args import may_use_tcp
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import GuestDied, StartFailed, VmError
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.host.seal import Bounds
from pytest_readonly_vm.host.ssh_key import public_key
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.base_lines import BaseLines
from pytest_readonly_vm.qemu.card import Card, CardWire
from pytest_readonly_vm.qemu.chain import DiskImage
from pytest_readonly_vm.qemu.command_line import PortWire, RamWire, TpmWire, Wiring
from pytest_readonly_vm.qemu.disk import create_overlay
from pytest_readonly_vm.qemu.disk_spec import DiskSpec, Overlays, close_all
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.resources import Resources
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.qemu.tpm import start_tpm, tpm_device

_MONITOR_PATIENCE = 30.0
_TUNABLES = "GLIBC_TUNABLES"
_PORTS = {"agent": "org.qemu.guest_agent.0", "shell": SHELL_PORT}
_CHANNELS: dict[str, Callable[[Port, str], Channel]] = {"agent": Agent, "shell": Shell}


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialState:
    """From what a machine comes to be: the files below its disk, and for one that does not boot its RAM and state."""

    overlays: Overlays = field(default_factory=dict)
    """Above those of the disks' images; `launch` takes the descriptors over."""
    named_overlay: bool = False
    """Whether the guest's writes go to files with names, in the machine's folder."""
    cards: tuple[Card, ...] | None = None
    """On private networks, those that the frozen guest has; None for those that are wanted."""
    ram: RamWire | None = None
    state: int | None = None
    """A descriptor of what ``migrate-incoming`` is to read."""
    transcript: Transcript = NOTHING
    ssh_key: Path | None = None
    """The key that the guest knows already."""


@host_errors("no machine can be started")
def launch(spec: MachineSpec, resources: Resources, initial: InitialState) -> Instance:
    """Start QEMU; what was begun is undone when anything fails. Its monitor has not been greeted yet.

    :raises ConfigurationError: the way of provisioning does not fit the machine.
    :raises HostError: this computer refuses what it takes.
    :raises StartFailed: QEMU could not be started.
    """
    config, name, loop = spec.config, spec.name, resources.loop
    with ExitStack() as undo, ExitStack() as sockets:
        undo.callback(close_all, initial.overlays)
        slot = spec.slot or resources.slots([config], name, spare=spec.is_spare)[0]
        undo.callback(slot.release)
        folder = resources.new_folder(config)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        disks = tuple(_disk(disk, spec, initial, folder) for disk in spec.disks)
        ssh_key = initial.ssh_key or (resources.ssh_key(config) if config.channel == "ssh" else None)
        given = spec.provision(folder, key=public_key(ssh_key) if ssh_key and config.channel == "ssh" else None)
        given.write_files()
        monitor, qemu_monitor = (sockets.enter_context(end) for end in socket.socketpair())
        console, qemu_console = (sockets.enter_context(end) for end in socket.socketpair())
        ports, lines = _ports(config, sockets)
        tpm, tpm_line = None, None
        if device := tpm_device(spec):
            qemu_line, tpms_line = (sockets.enter_context(end) for end in socket.socketpair())
            tpm = start_tpm(spec, resources, folder, tpms_line)
            undo.callback(tpm.kill)
            tpm_line = TpmWire(device, qemu_line.fileno())
        cards = _cards(spec, resources, initial.cards, sockets)
        from_state = initial.state is not None
        if not from_state:
            spec.firmware.write_variables(folder)
        base_lines = BaseLines(loop, name)
        undo.callback(base_lines.close)
        wiring = Wiring(
            monitor=qemu_monitor.fileno(),
            console=qemu_console.fileno(),
            drives=tuple(
                disk.spec.wire(disk.frozen_overlays, disk.overlay, lambda file: base_lines.lend(file, sockets))
                for disk in disks
            ),
            cdrom=DiskImage(spec.cd.descriptor, spec.cd.format) if spec.cd else None,
            ram=initial.ram,
            waits_for_state=from_state,
            flash=spec.firmware.wires(folder, from_state=from_state),
            rom=spec.firmware.rom,
            has_smm=spec.firmware.needs_smm,
            tpm=tpm_line,
            human_monitor=folder / "monitor" if config.monitor else None,
            ports=ports,
            cards=cards,
            append=given.append,
            provision=given.qemu_args,
            sandboxed=spec.hypervisor.seal.sandbox,
        )
        process = _spawn(spec, resources, wiring, folder, extra=() if initial.state is None else (initial.state,))
        undo.callback(process.kill)
        qmp = Qmp(loop, process, name)
        base_lines.watch(process, qmp)
        lines["console"] = console
        instance = _connect(
            spec,
            resources,
            process,
            qmp,
            {device: line.dup() for device, line in lines.items()},
            folder=folder,
            transcript=initial.transcript,
            ssh_key=ssh_key,
            monitor=monitor.dup(),
            disks=disks,
            human_monitor=wiring.human_monitor,
            has_named_ram=initial.ram is not None,
            cards=[wire.card for wire in cards],
            tpm=tpm,
            base_lines=base_lines,
        )
        instance.on_end += (slot.release, base_lines.close)
        undo.pop_all()
    resources.note_running(instance)
    return instance


def _connect(
    spec: MachineSpec,
    resources: Resources,
    process: Process,
    qmp: Qmp,
    lines: dict[str, socket.socket],
    *,
    folder: Path,
    transcript: Transcript,
    ssh_key: Path | None,
    **others: Any,
) -> Instance:
    """Everything that a running QEMU has to talk to, by our ends of its lines, which the instance closes in the end.

    :param others: further attributes of the instance.
    """
    config, name, loop = spec.config, spec.name, resources.loop
    log = folder / "console.log"
    console = Console(loop, process, qmp.liveness, lines["console"].dup(), log, name, transcript, qmp.history)

    async def answers(patience: float) -> bool | None:
        return await choice.answers(patience)

    patterns = config.panic_pattern
    CrashDetector(process, qmp, console, folder=folder, name=name, answers=answers, panic_patterns=patterns)
    network = Network(loop, qmp, name)
    channels: dict[str, Channel] = {
        device: make(Port(process, qmp, lines[device].dup(), device=device, name=name), name)
        for device, make in _CHANNELS.items()
        if device in lines
    }

    def ssh() -> Ssh:
        key = ssh_key or resources.ssh_key(config)
        return Ssh(resources.spawner, process, qmp, network, folder=folder, name=name, key=key)

    if config.channel == "ssh":
        channels["ssh"] = ssh()
    choice = ChannelChoice(channels, process, console, name, usual=spec.usual_channel)
    return Instance(
        spec=spec,
        process=process,
        lines=lines,
        qmp=qmp,
        console=console,
        screen=Screen(loop, qmp, folder=folder, name=name, output_guard=resources.output_guard),
        network=network,
        channels=choice,
        make_ssh=ssh,
        folder=folder,
        output_guard=resources.output_guard,
        ssh_key=ssh_key,
        **others,
    )


async def greet(instance: Instance) -> None:
    """Connect to QEMU's monitor; on the loop.

    :raises StartFailed: QEMU ended or stayed silent.
    """
    process = instance.process
    try:
        async with asyncio.timeout(_MONITOR_PATIENCE):
            await instance.qmp.connect(instance.monitor)
    except GuestDied:
        if (lost := instance.base_lines.error()) is not None:
            raise _with_command_line(lost, process) from None
        failure = StartFailed(f"{instance.name}: QEMU {process.verdict()}")
        if "Permission denied" in process.stderr():
            failure.add_note("QEMU may write only below its own folder; if it must write elsewhere, use seal=off")
        raise _with_command_line(failure, process) from None
    except TimeoutError:
        if (lost := instance.base_lines.error()) is not None:
            raise _with_command_line(lost, process) from None
        silence = StartFailed(f"{instance.name}: QEMU's monitor did not answer within {_MONITOR_PATIENCE:g} s")
        raise _with_command_line(silence, process) from None


def _with_command_line(failure: VmError, process: Process) -> VmError:
    """For who wants to see by himself what QEMU says to it; of a machine that has run, the evidence has it."""
    process.with_evidence(failure).add_note(f"Command line: {process.command_line()}")
    return failure


def _spawn(spec: MachineSpec, resources: Resources, wiring: Wiring, folder: Path, extra: tuple[int, ...]) -> Process:
    argv = spec.command_line(wiring)
    ports = (port.descriptor for port in wiring.ports)
    ram = (wiring.ram.descriptor,) if wiring.ram and wiring.ram.descriptor is not None else ()
    files = (file.descriptor for drive in wiring.drives for file in drive.chain)
    descriptors = (*files, *(file.descriptor for file in spec.images if isinstance(file, ImageFile)))
    tpm = (wiring.tpm.descriptor,) if wiring.tpm else ()
    cards = (card.descriptor for card in wiring.cards if card.descriptor is not None)
    inherited = (wiring.monitor, wiring.console, *ports, *descriptors, *ram, *tpm, *cards, *extra)
    # QEMU puts its temporary snapshots into TMPDIR.
    # Its memory by huge pages, where the kernel gives them to who asks: half as many page faults in the start of each.
    tunables = ":".join(filter(None, ("glibc.malloc.hugetlb=1", os.environ.get(_TUNABLES))))
    env = {**os.environ, "TMPDIR": str(folder), _TUNABLES: tunables}
    tcp = spec.config.network != "none" or may_use_tcp(spec.config.qemu_args)
    bounds = Bounds(folder=folder, tcp=tcp) if spec.hypervisor.seal.landlock else None
    return resources.spawner.start_confined(
        argv, name=spec.name, env=env, pass_fds=inherited, run_folder=folder.parent, bounds=bounds
    )


def port_names(config: VmConfig) -> list[tuple[str, str]]:
    """The virtio-serial ports that the channels need: QEMU's id of each and the guest's name for it."""
    return [(device, name) for device, name in _PORTS.items() if config.channel in ("auto", device)]


def _ports(config: VmConfig, sockets: ExitStack) -> tuple[tuple[PortWire, ...], dict[str, socket.socket]]:
    """What QEMU gets of the virtio-serial ports that the channels need, and our ends of their lines."""
    wires, lines = [], {}
    for device, name in port_names(config):
        ours, qemus = (sockets.enter_context(end) for end in socket.socketpair())
        wires.append(PortWire(device, name, qemus.fileno()))
        lines[device] = ours
    return tuple(wires), lines


def _cards(
    spec: MachineSpec, resources: Resources, frozen: tuple[Card, ...] | None, sockets: ExitStack
) -> tuple[CardWire, ...]:
    """What QEMU gets of cards, each with a line of its own; to one that is not wanted any more there leads none."""
    wires = []
    connect = {cabling.card.number: cabling.connect for cabling in spec.cards}
    for card in tuple(cabling.card for cabling in spec.cards) if frozen is None else frozen:
        line = None
        if card.number in connect:
            line = sockets.enter_context(resources.loop.run(connect[card.number]())).fileno()
        wires.append(CardWire(card, line))
    return tuple(wires)


def _disk(disk: DiskSpec, spec: MachineSpec, initial: InitialState, folder: Path) -> AttachedDisk:
    """A disk with a file for the guest's writes, if that is to have a name.

    Its header names the base, which is right when all between is merged into it.
    """
    overlay = None
    if initial.named_overlay:
        overlay = folder / ("overlay.qcow2" if disk.name == DISK else f"overlay-{disk.name}.qcow2")
        above = disk.size if disk.base is None else disk.base
        assert above is not None
        create_overlay(overlay, above, qemu_img=spec.hypervisor.qemu_img, name=spec.name)
    return AttachedDisk(disk, tuple(initial.overlays.get(disk.name, ())), overlay)
