"""Owns what is wanted of one disk of a machine, and the files that QEMU gets of it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_readonly_vm.config.disk import DISK, Disk
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.image.base import BaseImage
from pytest_readonly_vm.image.bases import Bases
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.network_file import ChainFile, NetworkFile
from pytest_readonly_vm.qemu.chain import DiskImage
from pytest_readonly_vm.qemu.drive import DriveWire

Overlays = Mapping[str, tuple[ImageFile, ...]]
"""Of the disks of a machine, by their names: frozen files above those of its image, the topmost first."""


@host_errors("a frozen guest cannot be used")
def copies(overlays: Overlays) -> Overlays:
    """The same files, by descriptors that live and are closed on their own."""
    return {
        name: tuple(replace(file, descriptor=os.dup(file.descriptor)) for file in files)
        for name, files in overlays.items()
    }


def close_all(overlays: Overlays) -> None:
    for files in overlays.values():
        for file in files:
            os.close(file.descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """One disk as it is wanted. It has an image, or it is blank."""

    name: str
    interface: str
    serial: str
    base: BaseImage | None = None
    size: int | None = None
    """Bytes of a blank one."""

    @property
    def chain(self) -> tuple[ChainFile, ...]:
        """The files of its image."""
        return self.base.chain if self.base else ()

    def describe(self) -> str:
        """What it is, for people."""
        if self.base is None:
            return f"blank, {self.size} bytes"
        file = self.chain[0]
        if isinstance(file, NetworkFile):
            return f"{file.path} ({file.format}, {file.fingerprint})"
        return f"{file.path} ({file.format}, {file.fingerprint.size} bytes, inode {file.fingerprint.inode})"

    @property
    def is_here(self) -> bool:
        """Whether all of it is in files of this computer."""
        return not any(isinstance(file, NetworkFile) for file in self.chain)

    def wire(
        self,
        overlays: tuple[ImageFile, ...],
        overlay: Path | None,
        lend: Callable[[NetworkFile], int] = lambda file: 0,
    ) -> DriveWire:
        """The same for QEMU's command line.

        :param overlays: frozen files above those of its image.
        :param overlay: the named file that takes the guest's writes, if one does.
        :param lend: gives the descriptor of a new line to who reads a file on the network.
        """
        files = (
            *(DiskImage(file.descriptor, file.format, is_frozen=True) for file in overlays),
            *(
                DiskImage(lend(file), file.format, is_network=True)
                if isinstance(file, NetworkFile)
                else DiskImage(file.descriptor, file.format)
                for file in self.chain
            ),
        )
        return DriveWire(self.name, files, overlay, self.size, self.interface, self.serial)


def disk_specs(config: VmConfig, base: BaseImage | None, bases: Bases, *, qemu_img: Path) -> tuple[DiskSpec, ...]:
    """All disks of a machine: that of the image first, if it has one.

    :param base: of that one.
    :raises ImageError: the image of another is refused; other errors as `Bases.get`.
    """
    first = (DiskSpec(name=DISK, interface=config.disk_interface, serial=DISK, base=base),) if base else ()
    return (*first, *(_further(disk, config, bases, qemu_img) for disk in config.disks))


def _further(disk: Disk, config: VmConfig, bases: Bases, qemu_img: Path) -> DiskSpec:
    base = bases.get_disk(disk, config, qemu_img=qemu_img)
    size = None if disk.size is None else int(disk.size)
    interface = disk.interface or config.disk_interface
    return DiskSpec(name=disk.name, interface=interface, serial=disk.serial or disk.name, base=base, size=size)
