"""Owns templates: a guest frozen at one moment, as memory and files from which any number of machines can go on.

The guest's RAM is a memfd that the kernel has sealed, the state of its devices another, its disk a file below the
files of which is the base. A template outlives the QEMU that it was made of. How QEMU does it:
https://www.qemu.org/docs/master/devel/migration/main.html (``x-ignore-shared``: shared RAM is left where it is).
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_readonly_vm.channels.console import Transcript
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.sparse import ALL_SEALS
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.card import Card
from pytest_readonly_vm.qemu.disk_spec import Overlays, close_all
from pytest_readonly_vm.qemu.instance import Instance

Reads = Mapping[str, str]
"""Files and folders of the host that are in a frozen guest, by their paths as they were given, and digests of them."""

_SEAL_PATIENCE = 10.0
_SEAL_PAUSE = 0.01


class Findings(Protocol):
    """What somebody has found out of a template, and reads of it."""

    def close(self) -> None:
        """Read it no more."""


@dataclass(slots=True, eq=False)
class Known:
    """What is known of a template beside what makes it one."""

    files: Findings | None = None
    """What its files are, once somebody has asked what a machine has changed of them."""
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True
        if self.files is not None:
            self.files.close()
            self.files = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Template:
    """A frozen guest."""

    ram: int | None
    """Descriptor of its RAM; None when that is in `state` as well."""
    state: int
    """Descriptor of what QEMU has written of its devices."""
    overlays: Overlays
    """The files of its disks that are above those of the images."""
    has_named_ram: bool
    cards: tuple[Card, ...]
    """On private networks, each with its place."""
    transcript: Transcript
    conversation: tuple[str, Mapping[str, Any]] | None
    """The channel that was in use and where it stood."""
    ready_after: float
    """Seconds that the boot took."""
    boot_phases: dict[str, float] = field(default_factory=dict)
    ssh_key: Path | None = None
    reads: Reads = field(default_factory=dict)
    """What layers have read of the host's files: it is stale when they have other content."""
    known: Known = field(default_factory=Known)
    """What was found out of it since."""

    @host_errors("a frozen guest cannot be used")
    def open_state(self) -> int:
        """A descriptor of the state with a position of its own, for one QEMU to read."""
        return os.open(f"/proc/self/fd/{self.state}", os.O_RDONLY | os.O_CLOEXEC)

    def difference(self) -> str | None:
        """What happened to the files of the disk since the freeze, or None. RAM and state are the kernel's to keep."""
        for file in (file for files in self.overlays.values() for file in files):
            if found := file.fingerprint.difference_of_content(Fingerprint.of(os.fstat(file.descriptor))):
                return f"the template's {file.path.name} {found}"
        return None

    def close(self) -> None:
        self.known.close()
        for descriptor in (self.ram, self.state):
            if descriptor is not None:
                os.close(descriptor)
        close_all(self.overlays)


@host_errors("a guest's memory cannot be had")
def new_ram(size: int) -> int:
    """Memory of so many bytes that can be sealed, as a descriptor."""
    descriptor = os.memfd_create("guest-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


def seal(memory: int) -> None:
    """Have the kernel refuse every further change, for all time. Blocks while something has pages of it in hand.

    :raises OSError: something still had after ten seconds: a device's transfer, or whoever has it mapped.
    """
    deadline = time.monotonic() + _SEAL_PATIENCE
    while True:
        try:
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, ALL_SEALS)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(_SEAL_PAUSE)  # the kernel itself waits for a moment, and tells nobody when it would do


def frozen_overlay(path: Path) -> ImageFile:
    """A qcow2 file that nobody writes any more, open read-only; it may lose its name from now on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return ImageFile(path, "qcow2", descriptor, Fingerprint.of(os.fstat(descriptor)))


async def written_file(instance: Instance, disk: AttachedDisk) -> Path:
    """The file that takes a guest's writes; one without a name is reached through the process that has it open.

    :raises VmError: it cannot be found.
    """
    await disk.node(instance.qmp)
    if disk.overlay is not None:
        return disk.overlay
    for link in Path(f"/proc/{instance.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()) == f"{disk.written} (deleted)" and stat.S_ISREG(link.stat().st_mode):
                return link
    raise VmError(f"{instance.name}: the file with the guest's writes to {disk.name} cannot be found")
