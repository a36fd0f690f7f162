"""Owns what a capsule says of a disk: its image, known by digests, and its own files above that. Pure.

It may come from a stranger, as all of a manifest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.config.disk import DISK, INTERFACES, Disk
from pytest_readonly_vm.config.image_reference import ImageReference, is_url
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.evidence.capsule.fields import fitting, list_of, mapping, number, one_of, text
from pytest_readonly_vm.image.inspection import SUPPORTED
from pytest_readonly_vm.printable import count
from pytest_readonly_vm.qemu.drive import drive_of

DISK_MEMBER = re.compile(r"disk[\w-]*-\d{1,2}\.qcow2", re.ASCII)
_MOST_LAYERS = 200  # as QEMU can have
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """One file of the base image, the topmost first; or the image of a CD."""

    path: str
    format: str
    size: int
    """Of the file, in bytes."""
    virtual_size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SavedDisk:
    """One disk: its image, or the size of a blank one."""

    name: str
    interface: str
    serial: str
    size: int
    """Bytes of a blank one, else 0."""
    image: tuple[BaseLayer, ...]
    """Its files, the topmost first."""


def member(disk: str, number: int) -> str:
    """The name of one of the files of a disk that are above its image, the topmost being 0."""
    return f"{drive_of(disk)}-{number}.qcow2"


def overlays_of(disk: str, sizes: Mapping[str, int]) -> list[str]:
    return [name for name in sizes if DISK_MEMBER.fullmatch(name) and name.rpartition("-")[0] == drive_of(disk)]


def require_files(disks: tuple[SavedDisk, ...], sizes: Mapping[str, int]) -> None:
    """:raises ValueError: the files are not those of the disks."""
    if len({disk.name for disk in disks}) != len(disks):
        raise ValueError("two disks of one name")
    wanted = set()
    for disk in disks:
        files = overlays_of(disk.name, sizes)
        wanted |= {member(disk.name, number) for number in range(max(len(files), 1))}
    if wanted != (files_there := {name for name in sizes if DISK_MEMBER.fullmatch(name)}):
        differing = ", ".join(sorted(wanted ^ files_there))
        raise ValueError(f"the files of its {count(len(disks), 'disk')} are not there, or others are: {differing}")


def saved_disk(found: Mapping[str, Any]) -> SavedDisk:
    image = tuple(base_layer(mapping(layer)) for layer in list_of(found["image"], _MOST_LAYERS))
    disk = SavedDisk(
        name=text(found["name"]),
        interface=one_of(found["interface"], *INTERFACES),
        serial=text(found["serial"]),
        size=number(found["size"]),
        image=image,
    )
    if disk.name == DISK:
        if not image:
            raise ValueError(f"{DISK} has no image")
    else:
        try:
            further_disk(disk, Path("/") if image else None)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
    return disk


def further_disk(disk: SavedDisk, image: Path | ImageReference | None) -> Disk:
    """The same as a setting has it, with its image, if it has one, at this place.

    :raises ConfigurationError: there is no such disk.
    """
    size = None if image else disk.size
    format = disk.image[0].format if disk.image else None
    return Disk(disk.name, size=size, image=image, format=format, interface=disk.interface, serial=disk.serial)


def base_layer(found: Mapping[str, Any]) -> BaseLayer:
    written = text(found["path"])
    path = Path(written)
    if not path.is_absolute() and not is_url(written):
        raise ValueError(f"{path} is not absolute")
    return BaseLayer(
        path=written if is_url(written) else str(path),
        format=one_of(found["format"], *SUPPORTED),
        size=number(found["size"]),
        virtual_size=number(found["virtual_size"]),
        sha256=fitting(found["sha256"], _SHA256),
    )
