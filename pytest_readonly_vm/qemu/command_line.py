"""Owns the translation of a configuration into QEMU's arguments. Pure: the same in, the same out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.qemu_features import Features
from pytest_readonly_vm.host.seal import SANDBOX_ARGUMENT
from pytest_readonly_vm.qemu import board
from pytest_readonly_vm.qemu.card import CardWire, card_arguments
from pytest_readonly_vm.qemu.chain import DiskImage, chain
from pytest_readonly_vm.qemu.drive import DriveWire, drive_arguments
from pytest_readonly_vm.qemu.flash import FlashWire, flash_arguments

TPM = "tpm"
"""QEMU's name for the line to the TPM."""

CDROM = "cdrom0"
"""Its name for the image of a CD."""


_TRANSLATED = 256
"""MiB of translated guest code that TCG keeps. With its usual 1024, a library's pages that a thousand processes ran
gather so many translations that a boot loader, which writes over them byte by byte, takes minutes."""


@dataclass(frozen=True, slots=True)
class PortWire:
    """A virtio-serial port: QEMU's id of it, the name by which the guest knows it, an inherited descriptor."""

    device: str
    name: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class TpmWire:
    """A TPM: QEMU's name for such a device, and an inherited descriptor of the line to who emulates it."""

    device: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class RamWire:
    """The memory that is the guest's RAM, under a name by which a copy of the machine finds it again.

    `descriptor` is an inherited one, or None for memory of QEMU's own. What the guest writes goes there if it is
    `writable`, otherwise to pages of the process's own, copied when first written.
    """

    descriptor: int | None
    writable: bool


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a machine is connected to on the host. Descriptors are those that QEMU inherits."""

    monitor: int
    console: int
    drives: tuple[DriveWire, ...] = ()
    cdrom: DiskImage | None = None
    ram: RamWire | None = None
    waits_for_state: bool = False
    """Whether the guest does not boot but waits for a state to go on from."""
    human_monitor: Path | None = None
    flash: tuple[FlashWire, ...] = ()
    rom: int | None = None
    """A firmware that is no flash device, as an inherited descriptor."""
    has_smm: bool = False
    """Whether the machine has System Management Mode, by which alone its firmware can write to its flash."""
    tpm: TpmWire | None = None
    ports: tuple[PortWire, ...] = ()
    cards: tuple[CardWire, ...] = ()
    append: str | None = None
    provision: tuple[str, ...] = ()
    sandboxed: bool = False


def command_line(
    config: VmConfig, *, qemu: Path, arch: str, accelerator: str, features: Features, name: str, wiring: Wiring
) -> tuple[str, ...]:
    """The arguments, program first, for a machine that boots `config` under `accelerator`.

    `arch` is the guest's architecture in QEMU's words, `features` what that emulator has; `name` is shown by tools that
    list processes.
    """
    machine = board.machine(config, arch)
    cpu = board.cpu_model(config, arch, accelerator, features)
    bus = board.virtio_bus(config, arch)
    return (
        str(qemu),
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-vnc", "none",  # so that a display can be opened for a person later
        "-name", f"guest={escaped(name)}",
        *_ram(wiring.ram, config.memory, f"{machine},smm=on" if wiring.has_smm else machine),
        "-accel", f"tcg,tb-size={_TRANSLATED}" if accelerator == "tcg" else accelerator,
        *(("-cpu", cpu) if cpu else ()),
        "-smp", str(config.cpus),
        "-m", f"size={config.memory >> 10}K",
        # A guest that reboots by itself while it boots has crashed, or will never be ready. Allowed again once ready.
        # One that panics is paused, to be looked at; how it tells is below.
        "-action", "reboot=shutdown,panic=pause",
        *(("-sandbox", SANDBOX_ARGUMENT) if wiring.sandboxed else ()),
        "-chardev", f"socket,id=monitor,fd={wiring.monitor}",
        "-mon", "chardev=monitor,mode=control",
        "-chardev", f"socket,id=console,fd={wiring.console}",
        "-serial", "chardev:console",
        *_human_monitor(wiring.human_monitor),
        *_ports(wiring.ports, bus),
        *flash_arguments(wiring.flash, wiring.rom, has_smm=wiring.has_smm),
        *_tpm(wiring.tpm),
        *_direct_boot(config, wiring.append),
        *drive_arguments(wiring.drives, config, arch, boots=_must_know_what_boots(wiring)),
        *wiring.provision,
        *_cdrom(wiring.cdrom, board.cd_drive(config, arch), bus),
        *_network(config, bus),
        "-device", f"virtio-rng-{bus}",
        *board.devices(config, arch, features),
        *_spare_ports(config, arch),
        *card_arguments(wiring.cards, bus),
        *(("-incoming", "defer") if wiring.waits_for_state else ()),
        *config.qemu_args,
        # After those of the user, as what allows it for a guest that has booted has the last word, too.
        *(("-action", "reboot=reset") if wiring.waits_for_state else ()),
    )  # fmt: skip


def _ram(ram: RamWire | None, size: int, machine: str | None) -> tuple[str, ...]:
    if ram is None:
        return ("-machine", machine) if machine else ()
    backend = "memory-backend-ram"
    if ram.descriptor is not None:
        backend = f"memory-backend-file,mem-path=/proc/self/fd/{ram.descriptor},share={'on' if ram.writable else 'off'}"
    named = f"{machine},memory-backend=ram" if machine else "memory-backend=ram"
    return ("-machine", named, "-object", f"{backend},id=ram,size={size >> 10}K")


def _spare_ports(config: VmConfig, arch: str) -> tuple[str, ...]:
    arguments: list[str] = []
    # To such guests the ports are without a switch of their own, which those that hear of nothing would leave off.
    power = ",power_controller_present=off" if board.is_deaf_to_plugging(arch) else ""
    for number, port in enumerate(board.spare_ports(config, arch), start=1):
        arguments += ["-device", f"pcie-root-port,id={port},chassis={number}{power}"]
    return tuple(arguments)


def _tpm(tpm: TpmWire | None) -> tuple[str, ...]:
    if tpm is None:
        return ()
    return (
        "-chardev", f"socket,id={TPM},fd={tpm.descriptor}",
        "-tpmdev", f"emulator,id=tpm0,chardev={TPM}",
        "-device", f"{tpm.device},tpmdev=tpm0",
    )  # fmt: skip


def _human_monitor(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return (
        "-chardev", f"socket,id=human,path={escaped(str(path))},server=on,wait=off",
        "-mon", "chardev=human,mode=control",
    )  # fmt: skip


def _ports(ports: Sequence[PortWire], bus: str) -> tuple[str, ...]:
    if not ports:
        return ()
    arguments = ["-device", f"virtio-serial-{bus},id=serial0"]
    for number, port in enumerate(ports, start=1):
        arguments += ["-chardev", f"socket,id={port.device},fd={port.descriptor}"]
        device = f"virtserialport,bus=serial0.0,nr={number},chardev={port.device},id={port.device},name={port.name}"
        arguments += ["-device", device]
    return tuple(arguments)


def _direct_boot(config: VmConfig, append: str | None) -> tuple[str, ...]:
    arguments: list[str] = []
    for option, value in (("kernel", config.kernel), ("initrd", config.initrd), ("append", append)):
        if value is not None:
            arguments += [f"-{option}", str(value)]
    return tuple(arguments)


def _must_know_what_boots(wiring: Wiring) -> bool:
    """Whether the firmware is told what comes first.

    They do not agree on it, and UEFI's goes on to the network when it finds nothing here, for minutes. 0 is taken by a
    kernel of a direct boot.
    """
    is_one_of_several = len(wiring.drives) > 1 or wiring.cdrom or any(wire.card.boots for wire in wiring.cards)
    return bool(is_one_of_several or wiring.flash or wiring.rom is not None)


def _cdrom(image: DiskImage | None, drive: Sequence[str], bus: str) -> tuple[str, ...]:
    """A drive with a CD, from which a guest boots if it has no disk, or a blank one."""
    if image is None:
        return ()
    *controllers, drive_itself = drive
    devices = (*controllers, f"{drive_itself},drive={CDROM},bootindex=2")
    return (
        "-add-fd", f"fd={image.descriptor},set={image.descriptor}",
        "-blockdev", chain((image,), CDROM),
        *(word for device in devices for word in ("-device", device.format(bus=bus))),
    )  # fmt: skip


def _network(config: VmConfig, bus: str) -> tuple[str, ...]:
    if config.network == "none":
        return ("-nic", "none")
    no_boot_rom = ",romfile=" if bus == "pci" else ""
    backend = "user,id=net0,restrict=on" if config.network == "restricted" else "user,id=net0"
    # A copy would be told at once to announce itself to its network, in which nobody else is, and its services react.
    return ("-netdev", backend, "-device", f"virtio-net-{bus},netdev=net0,guest_announce=off{no_boot_rom}")
