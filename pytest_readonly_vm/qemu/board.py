"""Owns what the machine types of QEMU have, and what a guest gets where the user leaves it open. Pure."""

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.host.qemu_features import Features

X86 = ("x86_64", "i386")

_MACHINES = {
    **dict.fromkeys(X86, "pc"),
    **dict.fromkeys(("aarch64", "arm", "riscv64", "riscv32", "loongarch64"), "virt"),
    "ppc64": "pseries",
    "s390x": "s390-ccw-virtio",
}
"""By architecture; of others QEMU's own default is taken."""

_DISKS = {
    "virtio": ("virtio-blk-{bus}",),
    "scsi": ("virtio-scsi-{bus},id=scsi0", "scsi-hd,bus=scsi0.0"),
    "sata": ("ich9-ahci,id=sata0", "ide-hd"),
    "ide": ("ide-hd",),
    "nvme": ("nvme",),
    "usb": ("qemu-xhci,id=usb0", "usb-storage,bus=usb0.0"),
}
"""The devices of each disk interface: its controller, if disks share one, and a disk."""

_IDE = {"q35": ("ide.0", "ide.1", "ide.3", "ide.4", "ide.5")}
_OTHER_IDE = ("ide.0", "ide.0", "ide.1")
_SATA = tuple(f"sata0.{number}" for number in range(6))
"""Where disks can be, but for the place of the CD-ROM drive."""
_USB = 4  # as many ports has QEMU's controller
_MANY = 16
"""Disks of an interface that has as many as one likes: of PCI devices there is room for some twenty in all."""

_CD_DRIVES = {"pc": ("ide-cd,bus=ide.1",), "isapc": ("ide-cd,bus=ide.1",), "q35": ("ide-cd,bus=ide.2",)}
_OTHER_CD_DRIVE = ("virtio-scsi-{bus},id=cdrom-bus", "scsi-cd,bus=cdrom-bus.0")

_SPARE_PORTS = 4
"""How many cards can be plugged into a machine with PCI Express, in which each needs a port of its own."""

_WITHOUT_PCI = {"microvm": ("virtio", "scsi"), "s390-ccw-virtio": ("virtio", "scsi")}
_WITH_PCI = {"virt": ("virtio", "scsi", "sata", "nvme", "usb"), "pseries": ("virtio", "scsi", "sata", "nvme", "usb")}
_INTERFACES = {**_WITHOUT_PCI, **_WITH_PCI}
"""Those that a machine type takes, where it does not take all."""


def machine(config: VmConfig, arch: str) -> str | None:
    """QEMU's machine type, with its options; None for the emulator's own default."""
    if config.machine is None and config.firmware == "uefi-secure" and arch in X86:
        return "q35"  # as pc has no System Management Mode that would protect flash
    return config.machine or _MACHINES.get(arch)


def machine_type(config: VmConfig, arch: str) -> str:
    """The same without options; nothing where QEMU's own default is taken."""
    return (machine(config, arch) or "").partition(",")[0]


def family(config: VmConfig, arch: str) -> str:
    """The same without a version, for which the names without one are short: ``virt`` for ``virt-7.2``."""
    kind = machine_type(config, arch)
    long = {"pc-i440fx": "pc", "pc-q35": "q35"}
    found = kind.rpartition("-")[0] if kind.rpartition("-")[2][:1].isdigit() else kind
    return long.get(found, found)


def virtio_bus(config: VmConfig, arch: str) -> str:
    """The end of the names of QEMU's virtio devices on this machine: ``pci``, ``device``, ``ccw``."""
    if arch == "s390x":
        return "ccw"
    return "device" if machine_type(config, arch) == "microvm" else "pci"


def cd_drive(config: VmConfig, arch: str) -> tuple[str, ...]:
    """The devices of its CD-ROM drive, the drive itself at the end."""
    return _CD_DRIVES.get(family(config, arch), _OTHER_CD_DRIVE)


def spare_ports(config: VmConfig, arch: str) -> tuple[str, ...]:
    """The buses into which a card can be plugged, where a machine type has none by itself; QEMU's names for them."""
    is_express = family(config, arch) in ("q35", "virt")
    return tuple(f"spare{number}" for number in range(1, _SPARE_PORTS + 1)) if is_express else ()


def takes_cards(config: VmConfig, arch: str) -> bool:
    """Whether cards can be plugged into such a machine while it runs."""
    return virtio_bus(config, arch) != "device" and family(config, arch) != "pseries"  # where a daemon has to see to it


def is_deaf_to_plugging(arch: str) -> bool:
    """Whether usual kernels hear of nothing that is plugged into a port of PCI Express, and have to be told to look.

    Debian's are built without that for these.
    """
    return arch in ("riscv64", "riscv32", "arm")


def has_power_button(arch: str) -> bool:
    """Whether QEMU's machines have one that a guest can hear; those for RISC-V have none (hw/riscv/virt.c)."""
    return arch not in ("riscv64", "riscv32")


def _disk_buses(interface: str, config: VmConfig, arch: str) -> tuple[str, ...]:
    """The places for disks of an interface on which each has one of its own."""
    if interface == "ide":
        return _IDE.get(family(config, arch), _OTHER_IDE)
    return _SATA if interface == "sata" else ()


def disk_devices(interface: str, number: int, config: VmConfig, arch: str) -> tuple[str, ...]:
    """The devices of the disk of this number, from 0 on, among those of its interface: controller, if new, and disk."""
    *controllers, disk = (device.format(bus=virtio_bus(config, arch)) for device in _DISKS[interface])
    buses = _disk_buses(interface, config, arch)
    return (*([] if number else controllers), f"{disk},bus={buses[number]}" if buses else disk)


def refuse_what_it_has_not(config: VmConfig, arch: str) -> None:
    """:raises ConfigurationError: disks are asked for that this machine type cannot have."""
    kind = family(config, arch)
    has = _INTERFACES.get(kind, tuple(_DISKS))
    wanted = [("disk_interface", config.disk_interface)] if config.image is not None else []
    wanted += [("disks", disk.interface or config.disk_interface) for disk in config.disks]
    used: dict[str, int] = {}
    for setting, interface in wanted:
        origin = config.origin(setting)
        if interface not in has:
            what = f"disk_interface={interface}" if setting == "disk_interface" else f"disks: the interface {interface}"
            raise ConfigurationError(
                f"{origin}: {what} is none of those that machines of the type {kind} ({arch}) have: {', '.join(has)}"
            )
        used[interface] = used.get(interface, 0) + 1
        most = _USB if interface == "usb" else len(_disk_buses(interface, config, arch)) or _MANY
        if used[interface] > most:
            raise ConfigurationError(
                f"{origin}: disks: machines of the type {kind} ({arch}) have room for {most} disks of the interface "
                f"{interface}"
            )


def cpu_model(config: VmConfig, arch: str, accelerator: str, features: Features) -> str | None:
    """The processor that the guest sees; None for the machine type's own default.

    With TCG one that it is quick at, and with as much of what programs may ask for as that allows.
    """
    if config.cpu_model:
        return config.cpu_model
    if accelerator != "tcg":
        return "max" if arch in (*X86, "aarch64", "s390x") else None
    if arch in X86:
        # Linux then copies memory by string instructions, which TCG is slow at: a Debian boots in 16 s instead of 22.
        return "max,-erms,-fsrm"
    if arch == "aarch64" and "pauth-impdef" in features.max_cpu:
        # Pointers are authenticated by a hash of QEMU's own instead of the architecture's cipher, in which a boot would
        # spend three quarters of its time.
        return "max,pauth-impdef=on"
    if arch == "riscv64":
        # Not max: with all that QEMU 10.0 can do, Debian's kernel and OpenSBI 1.5 get no further than their first trap.
        return "rva23s64" if features.has_rva23 else None
    return "max" if arch in ("aarch64", "arm", "s390x") else None


def devices(config: VmConfig, arch: str, features: Features) -> tuple[str, ...]:
    """What a machine has beside what was asked for, so that it can be seen and can tell of itself.

    A display; ``pvpanic``, by which a guest tells that its kernel has panicked; and ``vmgenid``, by which it knows that
    it is a copy, at which Linux makes its random numbers anew. Of the last two a machine can have but one.
    """
    kind = family(config, arch)
    arguments: list[str] = []
    wanted: tuple[str, ...]
    if arch in X86:
        arguments += ["-vga", "std"] if kind != "microvm" else []
        wanted = ("vmgenid,guid=auto", "pvpanic") if kind in ("pc", "q35") else ()
    else:
        wanted = ("pvpanic-pci",) if kind in _WITH_PCI and features.has_pvpanic_pci else ()
    for device in wanted:
        if not any(argument.startswith(device.partition(",")[0]) for argument in config.qemu_args):
            arguments += ["-device", device]
    return tuple(arguments)
