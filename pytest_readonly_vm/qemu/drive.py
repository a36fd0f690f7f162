"""Owns how QEMU is told of a machine's disks: what is below each, what takes its writes, the device. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.qemu import board
from pytest_readonly_vm.qemu.chain import DiskImage, chain


def drive_of(name: str) -> str:
    """QEMU's name for the drive of a disk."""
    return name if name == DISK else f"disk-{name}"


def device_of(name: str) -> str:
    """QEMU's name for the device of a disk, as the guest sees it."""
    return f"{drive_of(name)}-device"


def below(name: str) -> str:
    """QEMU's name for what the overlay of a disk is above."""
    return f"{drive_of(name)}-below"


@dataclass(frozen=True, slots=True)
class DriveWire:
    """A disk as QEMU gets it."""

    name: str
    chain: tuple[DiskImage, ...] = ()
    """The files that it has, the topmost first."""
    overlay: Path | None = None
    """A named file for the guest's writes; None for a temporary snapshot."""
    size: int | None = None
    """Of a disk that has no image, in bytes: below its files there are zeros."""
    interface: str = "virtio"
    serial: str = DISK


def drive_arguments(drives: Sequence[DriveWire], config: VmConfig, arch: str, *, boots: bool) -> tuple[str, ...]:
    """The arguments for a machine's disks.

    :param boots: whether its firmware has to be told that the image's is what boots.
    """
    arguments: list[str] = []
    used: dict[str, int] = {}
    for drive in drives:
        arguments += _backend(drive)
        number = used.get(drive.interface, 0)
        used[drive.interface] = number + 1
        *controllers, disk = board.disk_devices(drive.interface, number, config, arch)
        first = ",bootindex=1" if boots and drive.name == DISK else ""
        names = f"drive={drive_of(drive.name)},id={device_of(drive.name)},serial={escaped(drive.serial)}"
        # As QEMU does by itself with writes for which there is no room: only so can a test have either kind stop the
        # machine or not, by the number of the error. Its nvme passes all on to the guest.
        stops = "" if drive.interface == "nvme" else ",rerror=enospc"
        for device in (*controllers, f"{disk},{names}{stops}{first}"):
            arguments += ["-device", device]
    return tuple(arguments)


def properties_of(name: str, arguments: Sequence[str]) -> dict[str, str | int]:
    """Of a disk's device on a command line, what ``device_add`` would be told of it, but for its drive."""
    mark = f",id={device_of(name)},"
    [words] = [word for word in arguments if mark in f"{word},"]
    driver, *pairs = words.split(",")
    found: dict[str, str | int] = {"driver": driver, **dict(pair.split("=", 1) for pair in pairs)}
    del found["drive"]
    if "bootindex" in found:
        found["bootindex"] = int(found["bootindex"])
    return found


def _backend(drive: DriveWire) -> list[str]:
    arguments: list[str] = []
    for one in (one for one in drive.chain if not one.is_network):
        arguments += ["-add-fd", f"fd={one.descriptor},set={one.descriptor}"]
    name = drive_of(drive.name)
    if drive.overlay is None:
        files = escaped("json:" + chain(drive.chain, size=drive.size))
        return [*arguments, "-drive", f"if=none,id={name},snapshot=on,file={files}"]
    # A machine's end decides whether its overlay is kept; nothing needs to be on the disk before. Its name is not said
    # in JSON, which has none for bytes that are no UTF-8.
    node = below(drive.name)
    overlay = f"if=none,id={name},cache=unsafe,format=qcow2,file={escaped(str(drive.overlay))},backing={node}"
    return [*arguments, "-blockdev", chain(drive.chain, node, size=drive.size), "-drive", overlay]
