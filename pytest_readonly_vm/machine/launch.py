"""Owns the start of a machine from nothing: QEMU with a base image, a boot, a guest that is ready."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.channels.agent import Agent
from pytest_readonly_vm.channels.channel import Channel
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.network import Network
from pytest_readonly_vm.channels.port import Port
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.channels.screen import Screen
from pytest_readonly_vm.channels.shell import PORT as SHELL_PORT
from pytest_readonly_vm.channels.shell import Shell
from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.errors import StartFailed
from pytest_readonly_vm.host.hypervisor import Hypervisor
from pytest_readonly_vm.host.image import BaseImage
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process, Spawner, run_tool
from pytest_readonly_vm.host.seal import Landlock
from pytest_readonly_vm.host.ssh_key import public_key
from pytest_readonly_vm.host.workspace import COOKIE
from pytest_readonly_vm.machine.access import Access
from pytest_readonly_vm.machine.boot import boot
from pytest_readonly_vm.machine.command_line import DiskLayer, PortWire, Wiring, command_line, virtio_bus
from pytest_readonly_vm.machine.commands import Commands
from pytest_readonly_vm.machine.files import Progress
from pytest_readonly_vm.machine.login import Login
from pytest_readonly_vm.machine.provision import provision
from pytest_readonly_vm.machine.readiness import Booting, readiness
from pytest_readonly_vm.machine.vm import VirtualMachine

_QEMU_IMG_PATIENCE = 60.0
_PORTS = {"agent": "org.qemu.guest_agent.0", "shell": SHELL_PORT}
_CHANNELS: dict[str, Callable[[Port, str], Channel]] = {"agent": Agent, "shell": Shell}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a machine gets from the lab that it is started in."""

    hypervisor: Hypervisor
    base: BaseImage | None
    folder: Path
    """The machine's own; it goes with it."""
    loop: LoopThread
    spawner: Spawner
    ssh_key: Callable[[], Path]
    """Gives the run's key, made when first asked for."""
    progress: Progress
    usual_channel: str | None
    """The channel that such a machine had before."""


def cold_start(config: VmConfig, *, name: str, lab: Surroundings) -> VirtualMachine:
    """Start QEMU and return when its guest is ready; what was begun is undone when anything fails.

    :raises ConfigurationError: the way of provisioning does not fit the machine.
    :raises StartFailed: QEMU did not come up.
    :raises GuestDied: it ended while the guest was booting.
    :raises BootTimeout: the guest did not become ready within ``config.boot_timeout``.
    """
    started = time.monotonic()
    hypervisor, folder, loop = lab.hypervisor, lab.folder, lab.loop
    arch = hypervisor.qemu.arch
    with ExitStack() as undo, ExitStack() as sockets:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        overlay = _overlay(config, lab.base, folder, hypervisor.qemu_img)
        key = public_key(lab.ssh_key()) if config.channel == "ssh" else None
        given = provision(config, key=key, folder=folder, arch=arch, bus=virtio_bus(config, arch))
        monitor, qemu_monitor = (sockets.enter_context(end) for end in socket.socketpair())
        console, qemu_console = (sockets.enter_context(end) for end in socket.socketpair())
        ports, lines = _ports(config, sockets)
        wiring = Wiring(
            monitor=qemu_monitor.fileno(),
            console=qemu_console.fileno(),
            layers=tuple(DiskLayer(layer.descriptor, layer.format) for layer in lab.base.layers) if lab.base else (),
            overlay=overlay,
            human_monitor=folder / "monitor" if config.monitor else None,
            ports=ports,
            append=given.append,
            provision=given.qemu_args,
            sandboxed=hypervisor.seal.sandbox,
        )
        argv = command_line(
            config,
            qemu=hypervisor.qemu.path,
            arch=arch,
            accelerator=hypervisor.accelerator.name,
            name=name,
            wiring=wiring,
        )
        process = _spawn(argv, name, wiring, folder, sealed=bool(hypervisor.seal.landlock), spawner=lab.spawner)
        undo.callback(process.kill)
        qmp = Qmp(loop, process, name)
        text = Console(loop, process, console.dup(), folder / "console.log", name)
        network = Network(loop, qmp, name)
        channels: dict[str, Channel] = {
            device: _CHANNELS[device](Port(process, qmp, line.dup(), device=device, name=name), name)
            for device, line in lines.items()
        }

        def ssh() -> Ssh:
            return Ssh(lab.spawner, process, qmp, network, folder=folder, name=name, key=lab.ssh_key())

        if config.channel == "ssh":
            channels["ssh"] = ssh()
        access = Access(channels, process, text, name, usual=lab.usual_channel)
        vm = VirtualMachine(
            name=name,
            config=config,
            loop=loop,
            process=process,
            qmp=qmp,
            console=text,
            screen=Screen(loop, qmp, folder=folder, name=name),
            network=network,
            ssh=ssh,
            access=access,
            started=started,
            progress=lab.progress,
            folder=folder,
            overlay=overlay,
            human_monitor=wiring.human_monitor,
            qemu_img=hypervisor.qemu_img,
        )
        undo.callback(vm.close)
        guest = Booting(vm, qmp, text, access, Commands(access, name))
        typing = "shell" in channels and (config.provision != "none" or config.login is not None)
        login = Login(config, text, access) if typing else None
        boot(guest, process, monitor.dup(), readiness(config.ready), login, loop)
        undo.pop_all()
    vm.boot_seconds = vm.seconds_since_start()
    vm.boot_phases = guest.phases
    return vm


def _spawn(
    argv: tuple[str, ...], name: str, wiring: Wiring, folder: Path, *, sealed: bool, spawner: Spawner
) -> Process:
    ports = (port.descriptor for port in wiring.ports)
    inherited = (wiring.monitor, wiring.console, *ports, *(layer.descriptor for layer in wiring.layers))
    # QEMU puts its temporary snapshots into TMPDIR.
    env = {**os.environ, "TMPDIR": str(folder), COOKIE: str(folder.parent)}
    landlock = Landlock(folder) if sealed else None
    try:
        return spawner.start(argv, name=name, env=env, pass_fds=inherited, ruleset=landlock.fd if landlock else None)
    except OSError as error:
        raise StartFailed(f"{name}: {argv[0]} could not be started: {error}") from error
    finally:
        if landlock:
            landlock.close()


def _ports(config: VmConfig, sockets: ExitStack) -> tuple[tuple[PortWire, ...], dict[str, socket.socket]]:
    """What QEMU gets of the virtio-serial ports that the channels need, and our ends of their lines."""
    wires, lines = [], {}
    for device, name in _PORTS.items():
        if config.channel in ("auto", device):
            ours, qemus = (sockets.enter_context(end) for end in socket.socketpair())
            wires.append(PortWire(device, name, qemus.fileno()))
            lines[device] = ours
    return tuple(wires), lines


def _overlay(config: VmConfig, base: BaseImage | None, folder: Path, qemu_img: Path) -> Path | None:
    if config.snapshot != "overlay" or base is None:
        return None
    path = folder / "overlay.qcow2"
    argv = [str(qemu_img), "create", "-q", "-f", "qcow2", "-F", base.format, "-b", str(base.path), str(path)]
    done = run_tool(argv, timeout=_QEMU_IMG_PATIENCE)
    if done.returncode != 0:
        raise StartFailed(f"the overlay could not be made: {done.stderr.strip() or 'qemu-img gave no answer'}")
    return path
