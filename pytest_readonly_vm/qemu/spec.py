"""Owns what is wanted of one machine: plain values, from which QEMU's arguments follow."""

from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.hypervisor import Hypervisor
from pytest_readonly_vm.host.slots import Slot
from pytest_readonly_vm.image.base import BaseImage
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.network_file import ChainFile, NetworkFile
from pytest_readonly_vm.qemu.board import virtio_bus
from pytest_readonly_vm.qemu.card import Cabling
from pytest_readonly_vm.qemu.command_line import Wiring, command_line
from pytest_readonly_vm.qemu.disk_spec import DiskSpec
from pytest_readonly_vm.qemu.firmware import Firmware
from pytest_readonly_vm.qemu.named_files import why_untold
from pytest_readonly_vm.qemu.provision import Provision, provision


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """One machine as it is wanted."""

    config: VmConfig
    name: str
    hypervisor: Hypervisor
    disks: tuple[DiskSpec, ...]
    """That of the image first, if there is one."""
    firmware: Firmware
    cdrom: BaseImage | None = None
    cards: tuple[Cabling, ...] = ()
    """On private networks. They shape no template: whoever boots by itself has them from the start, and a copy is given
    those that it lacks."""
    slot: Slot | None = None
    """Its share of this computer, if that was taken before."""
    usual_channel: str | None = None
    """The channel that such a machine had before."""
    is_spare: bool = False
    """Whether it is wanted before its time: nobody waits for it, and it is no loss."""

    @property
    def base(self) -> BaseImage | None:
        """The base image."""
        return next((disk.base for disk in self.disks if disk.name == DISK), None)

    @property
    def chain(self) -> tuple[ChainFile, ...]:
        """The files of the base image."""
        return self.base.chain if self.base else ()

    @property
    def cd(self) -> ImageFile | None:
        """The file of its CD."""
        file = self.cdrom.chain[0] if self.cdrom else None
        return file if isinstance(file, ImageFile) else None  # none is on the network

    @property
    def images(self) -> tuple[ChainFile, ...]:
        """All files that it reads and never writes."""
        files = (file for disk in self.disks for file in disk.chain)
        return (*files, *((self.cd,) if self.cd else ()), *self.firmware.files)

    @property
    def is_lasting(self) -> bool:
        """Whether another run knows by its files that they are the same, so that what is made of them can be kept."""
        are_lasting = all(file.fingerprint.is_lasting for file in self.images if isinstance(file, NetworkFile))
        return are_lasting and why_untold(self.config) is None

    @property
    def slowness(self) -> float:
        """By how much times that are meant for fast computers are to be multiplied."""
        return self.hypervisor.slowness(self.config)

    def provision(self, folder: Path, *, key: str | None) -> Provision:
        """What such a guest is told from outside, with its files in `folder`."""
        arch = self.hypervisor.qemu.arch
        return provision(self.config, key=key, folder=folder, arch=arch, bus=virtio_bus(self.config, arch))

    def command_line(self, wiring: Wiring) -> tuple[str, ...]:
        """QEMU's arguments for such a machine."""
        return command_line(
            self.config,
            qemu=self.hypervisor.qemu.path,
            arch=self.hypervisor.qemu.arch,
            accelerator=self.hypervisor.accelerator.name,
            features=self.hypervisor.features,
            name=self.name,
            wiring=wiring,
        )
