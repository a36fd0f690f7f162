"""Owns what firmware a machine has: what is decided where the user leaves it open, and the files of it, open read-only.

Each machine has variables of its own. They are in a flash device, which is memory to QEMU: it is in a guest's state
with all that the guest has written there. So whatever goes on from a state has flash devices that are blank until it is
loaded, of the right sizes, and what is written to them then goes nowhere else.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_readonly_vm.config.qemu_args import own_firmware
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.host.firmware import find_firmware
from pytest_readonly_vm.host.hypervisor import Hypervisor
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.image import sparse
from pytest_readonly_vm.image.base import BaseImage
from pytest_readonly_vm.image.bases import Bases
from pytest_readonly_vm.image.boot_catalogue import firmware_of_cd
from pytest_readonly_vm.image.disk_arch import LOADERS
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.layout import DiskLayout, Layouts
from pytest_readonly_vm.qemu.board import X86, machine_type
from pytest_readonly_vm.qemu.chain import DiskImage
from pytest_readonly_vm.qemu.flash import FlashWire

_LOADERS = {arch: name for name, arch in LOADERS.items()}
"""Names of the loader on a disk that a firmware has never seen, by architecture (UEFI 2.10, 3.5.1.1)."""

_WRITTEN = ("split", "combined")
_VARIABLES = "variables"
_QCOW2_SIZE = struct.Struct(">4s20xQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What a machine begins with."""

    kind: str
    """``bios`` (on other than x86 machines whatever QEMU has for them), ``uefi``, ``uefi-secure``."""
    reason: str
    """Why it is that one."""
    files: tuple[ImageFile, ...] = ()
    """The code, and what variables begin as if that is another file. Never written."""
    mapping: str = ""
    """How they are mapped, as `FirmwareFiles` has it; empty without files, and if they are in a guest's state."""
    flash: tuple[int, ...] = ()
    """Sizes of the flash devices, in bytes: of the code, and of the variables if they are in one of their own."""
    needs_smm: bool = False

    def describe(self) -> str:
        """For people."""
        return f"{self.kind}, as {self.reason}"

    def wires(self, folder: Path, *, from_state: bool) -> tuple[FlashWire, ...]:
        """The flash devices of a machine with this folder.

        :param from_state: whether their content comes by a state; otherwise `write_variables` has to be called before.
        """
        last = len(self.flash) - 1
        wires = []
        for unit, size in enumerate(self.flash):
            is_writable = unit == last and self.mapping in ("", *_WRITTEN)
            wire = FlashWire(size=size, writable=is_writable)
            if not from_state:
                file = self.files[unit]
                wire = (
                    replace(wire, variables=folder / _VARIABLES, format=file.format)
                    if is_writable
                    else replace(wire, code=DiskImage(file.descriptor, file.format))
                )
            wires.append(wire)
        return tuple(wires)

    @property
    def is_in_state(self) -> bool:
        """Whether a machine that goes on from a state has all of it from there, or from QEMU."""
        return self.mapping != "memory"

    @property
    def rom(self) -> int | None:
        """The descriptor of one that is no flash device."""
        return self.files[0].descriptor if self.mapping == "memory" else None

    @host_errors("the firmware's variables cannot be had")
    def write_variables(self, folder: Path) -> None:
        """Make what variables begin as a machine's own."""
        if self.mapping in _WRITTEN:
            with (folder / _VARIABLES).open("xb") as file:
                sparse.copy(self.files[-1].descriptor, file.fileno())


class Firmwares:
    """Those of the machines of a run. Any thread may ask."""

    def __init__(self, bases: Bases, layouts: Layouts) -> None:
        """`bases` keeps their files, and proves them untouched; `layouts` looks at images."""
        self._bases = bases
        self._layouts = layouts

    def get(
        self, config: VmConfig, hypervisor: Hypervisor, base: BaseImage | None, cdrom: BaseImage | None = None
    ) -> Firmware:
        """The firmware of such a machine.

        :raises ConfigurationError: what is asked for does not go together.
        :raises HostError: it is not installed; the message names the package.
        :raises ImageError: the image cannot be read.
        :raises BaseImageChanged: a file of it was found changed earlier in this run.
        """

        def layout() -> DiskLayout | None:
            return self._layouts.get(base, qemu_img=hypervisor.qemu_img)

        arch = hypervisor.qemu.arch
        kind, reason = decide(
            config, arch=arch, layout=layout, cd=lambda: firmware_of_cd(cdrom.chain[0]) if cdrom else frozenset()
        )
        if kind == "bios":
            return Firmware(kind=kind, reason=reason)
        machine = machine_type(config, arch)
        if kind == "uefi-secure" and arch in X86 and machine != "q35" and not machine.startswith("pc-q35-"):
            raise ConfigurationError(
                f"{config.origin('firmware')}: firmware=uefi-secure keeps its keys safe by System Management Mode, "
                f"which QEMU has in q35 and not in {machine} (from {config.origin('machine')}); leave machine out"
            )
        try:
            found = find_firmware(hypervisor.qemu, machine=machine, secure=kind == "uefi-secure")
        except HostError as error:
            raise HostError(f"this machine boots by {kind}, as {reason}, and {error}") from None
        files = self._bases.get_parts(
            tuple((file.path, file.format) for file in (found.code, found.variables) if file),
            what="the firmware",
            origin=str(found.descriptor),
            verify=config.verify,
        )
        return Firmware(
            kind=kind,
            reason=reason,
            files=files,
            mapping=found.mapping,
            flash=() if found.mapping == "memory" else tuple(map(_size_in_guest, files)),
            needs_smm=found.needs_smm,
        )


def decide(
    config: VmConfig,
    *,
    arch: str,
    layout: Callable[[], DiskLayout | None],
    cd: Callable[[], frozenset[str]] = frozenset,
) -> tuple[str, str]:
    """The kind of firmware and why, with which the machine can be told.

    :param layout: looks at the disk, if there is one; called if it matters.
    :param cd: by what firmware the CD boots, if there is one; called if it matters.
    :raises ConfigurationError: what is asked for does not go together.
    """
    origin = config.origin("firmware")
    if config.firmware != "auto":
        _require_sense(config, arch, origin)
        return config.firmware, f"asked for by {origin}"
    if own := own_firmware(config.qemu_args, config.machine):
        return "bios", f"there is one of the user's own: {own}"
    if config.kernel is not None:
        return "bios", "a kernel is booted directly"
    machine = machine_type(config, arch)
    if arch not in X86:
        is_virt = machine == "virt" or machine.startswith("virt-")
        if is_virt and arch in _LOADERS and (config.image or config.cdrom) is not None:
            return "uefi", f"{arch} machines of the type {machine} boot disks and CDs by nothing else"
        return "bios", f"{arch} machines of the type {machine} have their own"
    disk = None if machine == "microvm" else layout()
    if disk is not None and not disk.has_boot_code and (loader := _LOADERS[arch]) in disk.loaders:
        return "uefi", f"the image has {loader} in an EFI system partition and no boot code for a BIOS"
    if machine != "microvm" and (disk is None or not disk.has_boot_code) and cd() == {"uefi"}:
        return "uefi", "the CD boots by nothing else"
    if disk is None or disk.has_boot_code:
        return "bios", "a machine of this kind usually has it"
    return "bios", "the image has no loader for UEFI"


def _require_sense(config: VmConfig, arch: str, origin: str) -> None:
    kind = config.firmware
    if kind == "bios" and arch not in X86:
        raise ConfigurationError(f"{origin}: firmware=bios is for x86 machines, and this one is {arch}")
    if kind == "bios":
        return
    if own := own_firmware(config.qemu_args, config.machine):
        raise ConfigurationError(f"{origin}: firmware={kind} and a firmware of your own ({own}) cannot both be")
    if kind == "uefi-secure" and config.kernel is not None:
        raise ConfigurationError(
            f"{origin}: firmware=uefi-secure checks what is booted from a disk, and kernel (from "
            f"{config.origin('kernel')}) is started whoever signed it; leave kernel out, or say firmware=uefi"
        )


def of_state(kind: str, flash: tuple[int, ...], *, needs_smm: bool) -> Firmware:
    """The firmware of a machine whose state has all of it, code and variables, in flash devices of these sizes."""
    return Firmware(kind=kind, reason="the saved machine had it", flash=flash, needs_smm=needs_smm)


def _size_in_guest(file: ImageFile) -> int:
    if file.format == "raw":
        return file.fingerprint.size
    magic, size = _QCOW2_SIZE.unpack(os.pread(file.descriptor, _QCOW2_SIZE.size, 0))
    if magic != b"QFI\xfb":
        raise HostError(f"{file.path} is not the qcow2 file that its firmware descriptor says it is")
    return int(size)
