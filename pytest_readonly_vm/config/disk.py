"""Owns what a user may say of a machine's further disks. Pure, but for where paths are."""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

from pytest_readonly_vm.config import values as read
from pytest_readonly_vm.config.image_reference import ImageReference, located_image
from pytest_readonly_vm.config.image_reference import image as read_image
from pytest_readonly_vm.errors import ConfigurationError

DISK = "disk0"
"""The name of the disk that has the image of the setting ``image``."""

FORMATS = ("qcow2", "raw", "qed", "vmdk", "vdi", "vhdx", "vpc")
INTERFACES = ("virtio", "scsi", "sata", "ide", "nvme", "usb")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,19}")
_SERIAL = re.compile(r"[A-Za-z0-9_.-]{1,20}")  # what virtio has room for, and a path of udev's
_OPTIONS = ("format", "interface", "serial")
_OPTION = re.compile(rf",({'|'.join(_OPTIONS)}|\w+)=")


@dataclass(frozen=True, slots=True)
class Disk:
    """A further disk of a machine: blank, with a `size`, or what an `image` has in it.

    Whatever a guest writes to it is temporary, as on the first. It is found in the guest by its serial number:
    ``/dev/disk/by-id/virtio-data``, or by `VirtualDisk.guest_path`.

    :param name: what it is called in the test: letters, digits, ``-`` and ``_``, 20 at most.
    :param size: bytes, or a text such as ``2G``; a multiple of 512 bytes.
    :param image: a path, a URL or a name of ``vm-images.toml``, as for the setting ``image``.
    :param format: of the image; by default it is looked at.
    :param interface: virtio, scsi, sata, ide, nvme or usb; by default that of the setting ``disk_interface``.
    :param serial: its serial number, 20 characters at most; by default the name.
    :raises ConfigurationError: there cannot be such a disk.
    """

    name: str
    _: KW_ONLY
    size: int | str | None = None
    image: Path | ImageReference | str | None = None
    format: str | None = None
    interface: str | None = None
    serial: str | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "size", self._checked())
        except ValueError as error:
            raise ConfigurationError(f"the disk {self.name!r}: {error}") from None

    def _checked(self) -> int | None:
        """Its size in bytes.

        :raises ValueError: there cannot be such a disk.
        """
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError("its name is not a letter with letters, digits, '-' and '_' behind it, 20 at most")
        if self.name == DISK:
            raise ValueError("this is what the first one is called, that of the setting image")
        if (self.size is None) == (self.image is None):
            raise ValueError("it has either a size, if it is blank, or an image")
        if self.format is not None:
            if self.image is None:
                raise ValueError("format is that of an image, and it has none")
            read.one_of(*FORMATS)(self.format)
        if self.interface is not None:
            read.one_of(*INTERFACES)(self.interface)
        if self.serial is not None and not (isinstance(self.serial, str) and _SERIAL.fullmatch(self.serial)):
            raise ValueError(f"{self.serial!r} is no serial number of 1 to 20 letters, digits, '-', '_' and '.'")
        if self.size is None:
            return None
        size = read.size(self.size)
        if size % 512:
            raise ValueError(f"{size} bytes are not whole sectors of 512")
        return size

    def __str__(self) -> str:
        """As it is written for an option."""
        first = str(self.image) if self.image is not None else str(self.size)
        options = (f",{name}={value}" for name in _OPTIONS if (value := getattr(self, name)) is not None)
        return f"{self.name}:{first}{''.join(options)}"


def disks(value: object) -> tuple[Disk, ...]:
    """Further disks, one or several, each a `Disk` or a text: ``data:2G``, ``data:PATH,format=raw,interface=scsi``.

    :raises ValueError: there cannot be such a disk.
    """
    if isinstance(value, Disk):
        return (value,)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(found for one in value for found in disks(one))
    written = read.text(value)
    name, colon, rest = written.partition(":")
    if not colon or not rest:
        raise ValueError(f"{written!r} is not of the form NAME:SIZE or NAME:IMAGE")
    first, *more = _OPTION.split(rest)
    options = dict(zip(more[::2], more[1::2], strict=True))
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise ValueError(
            f"{written!r}: {unknown[0]} is none of {', '.join(_OPTIONS)}{read.nearest(unknown[0], _OPTIONS)}"
        )
    is_size = read.is_size(first) or first.isdecimal()
    kind: dict[str, Any] = {"size": int(first) if first.isdecimal() else first} if is_size else {"image": first}
    try:
        return (Disk(name, **kind, **options),)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def located_disks(found: object, *, written: object, folder: Path | None) -> object:
    """The same with each image from the folder in which it was meant.

    :raises ValueError: as `located_image`; or two are called the same.
    """
    assert isinstance(found, tuple)
    names = [disk.name for disk in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two disks are called {twice[0]!r}")
    serials = [disk.serial or disk.name for disk in found]
    if twice := [serial for serial in (*serials, DISK) if (*serials, DISK).count(serial) > 1]:
        raise ValueError(f"two disks have the serial number {twice[0]!r}, by which they are to be told apart")
    return tuple(
        disk
        if disk.image is None
        else replace(disk, image=located_image(read_image(disk.image), written=disk.image, folder=folder))
        for disk in found
    )
