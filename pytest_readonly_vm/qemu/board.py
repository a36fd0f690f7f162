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

DISKS = {
    "virtio": ("virtio-blk-{bus},drive=disk0",),
    "scsi": ("virtio-scsi-{bus},id=scsi0", "scsi-hd,drive=disk0,bus=scsi0.0"),
    "sata": ("ich9-ahci,id=sata0", "ide-hd,drive=disk0,bus=sata0.0"),
    "ide": ("ide-hd,drive=disk0,bus=ide.0",),
    "nvme": ("nvme,drive=disk0,serial=disk0",),
    "usb": ("qemu-xhci,id=usb0", "usb-storage,drive=disk0,bus=usb0.0"),
}
"""The devices of each disk interface."""

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


def refuse_what_it_has_not(config: VmConfig, arch: str) -> None:
    """:raises ConfigurationError: a disk is asked for that this machine type cannot have."""
    kind = family(config, arch)
    has = _INTERFACES.get(kind, tuple(DISKS))
    if config.disk_interface not in has and config.image is not None:
        raise ConfigurationError(
            f"{config.origin('disk_interface')}: disk_interface={config.disk_interface} is none of those that machines "
            f"of the type {kind} ({arch}) have: {', '.join(has)}"
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
