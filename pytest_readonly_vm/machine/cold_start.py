"""Owns the start of a machine from nothing: QEMU with a base image, a boot, a guest that is ready."""

import asyncio
import os
import shutil
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.errors import BootTimeout, GuestDied, StartFailed
from pytest_readonly_vm.host.hypervisor import Hypervisor
from pytest_readonly_vm.host.image import BaseImage
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process, Spawner, run_tool
from pytest_readonly_vm.host.seal import Landlock
from pytest_readonly_vm.host.workspace import COOKIE
from pytest_readonly_vm.machine.command_line import DiskLayer, Wiring, command_line
from pytest_readonly_vm.machine.readiness import Readiness, readiness
from pytest_readonly_vm.machine.vm import VirtualMachine

_MONITOR_PATIENCE = 30.0
_QEMU_IMG_PATIENCE = 60.0


def cold_start(
    config: VmConfig,
    *,
    name: str,
    hypervisor: Hypervisor,
    base: BaseImage | None,
    folder: Path,
    loop: LoopThread,
    spawner: Spawner,
) -> VirtualMachine:
    """Start QEMU and return when its guest is ready; what was begun is undone when anything fails.

    `folder` is the machine's own and goes with it.

    :raises StartFailed: QEMU did not come up.
    :raises GuestDied: it ended while the guest was booting.
    :raises BootTimeout: the guest did not become ready within ``config.boot_timeout``.
    """
    started = time.perf_counter()
    with ExitStack() as undo, ExitStack() as sockets:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        overlay = _overlay(config, base, folder, hypervisor.qemu_img)
        monitor, qemu_monitor = (sockets.enter_context(end) for end in socket.socketpair())
        console, qemu_console = (sockets.enter_context(end) for end in socket.socketpair())
        wiring = Wiring(
            monitor=qemu_monitor.fileno(),
            console=qemu_console.fileno(),
            layers=tuple(DiskLayer(layer.descriptor, layer.format) for layer in base.layers) if base else (),
            overlay=overlay,
            human_monitor=folder / "monitor" if config.monitor else None,
            sandboxed=hypervisor.seal.sandbox,
        )
        argv = command_line(
            config,
            qemu=hypervisor.qemu.path,
            arch=hypervisor.qemu.arch,
            accelerator=hypervisor.accelerator.name,
            name=name,
            wiring=wiring,
        )
        process = _spawn(argv, name, wiring, folder, sealed=bool(hypervisor.seal.landlock), spawner=spawner)
        undo.callback(process.kill)
        vm = VirtualMachine(
            name=name,
            config=config,
            loop=loop,
            process=process,
            qmp=Qmp(loop, process, name),
            console=Console(loop, process, console.dup(), folder / "console.log", name),
            folder=folder,
            overlay=overlay,
            human_monitor=wiring.human_monitor,
            qemu_img=hypervisor.qemu_img,
        )
        undo.callback(vm.close)
        loop.run(_boot(vm, process, monitor.dup(), readiness(config.ready)))
        undo.pop_all()
    vm.boot_seconds = time.perf_counter() - started
    return vm


def _spawn(
    argv: tuple[str, ...], name: str, wiring: Wiring, folder: Path, *, sealed: bool, spawner: Spawner
) -> Process:
    inherited = (wiring.monitor, wiring.console, *(layer.descriptor for layer in wiring.layers))
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


async def _boot(vm: VirtualMachine, process: Process, monitor: socket.socket, ready: Readiness) -> None:
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
            await ready.wait(vm.qmp, vm.console)
            await vm.qmp.command("set-action", {"reboot": "reset"})
    except GuestDied:
        raise process.with_evidence(_boot_failure(vm, process)) from None
    except TimeoutError:
        raise process.with_evidence(_boot_timeout(vm, ready)) from None
    vm.qmp.forget_events()


def _start_failure(name: str, process: Process) -> StartFailed:
    failure = StartFailed(f"{name}: QEMU {process.verdict()}")
    if "Permission denied" in process.stderr():
        failure.add_note("QEMU may write only below its own folder; if it must write elsewhere, use seal=off")
    return failure


def _boot_failure(vm: VirtualMachine, process: Process) -> GuestDied:
    reasons = [event.data.get("reason") for event in vm.qmp.events if event.name == "SHUTDOWN"]
    because = f" ({reasons[-1]})" if reasons else ""
    failure = GuestDied(f"{vm.name}: the guest ended while booting{because}: QEMU {process.verdict()}")
    if "guest-reset" in reasons:
        failure.add_note("A reset while booting is a crash (a triple fault, a panic) or a reboot without end.")
    return failure


def _boot_timeout(vm: VirtualMachine, ready: Readiness) -> BootTimeout:
    timeout = BootTimeout(
        f"{vm.name}: the guest was not ready within {vm.config.boot_timeout:g} s (boot_timeout, from "
        f"{vm.config.origin('boot_timeout')}): waited for {ready.describe()}"
    )
    if not vm.console.tail():
        timeout.add_note(
            "A Linux guest uses its serial console when its kernel command line has console=ttyS0; with ready=none a "
            "guest counts as ready at once."
        )
    return timeout


def _overlay(config: VmConfig, base: BaseImage | None, folder: Path, qemu_img: Path) -> Path | None:
    if config.snapshot != "overlay" or base is None:
        return None
    path = folder / "overlay.qcow2"
    argv = [str(qemu_img), "create", "-q", "-f", "qcow2", "-F", base.format, "-b", str(base.path), str(path)]
    done = run_tool(argv, timeout=_QEMU_IMG_PATIENCE)
    if done.returncode != 0:
        raise StartFailed(f"the overlay could not be made: {done.stderr.strip() or 'qemu-img gave no answer'}")
    return path
