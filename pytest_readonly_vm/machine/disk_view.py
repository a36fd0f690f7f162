"""Owns the sight of a machine's disk from outside while it stands still: its files, and the file systems on it."""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from pytest_readonly_vm.image.ext4 import Ext4, making_sense
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.layout import partitions
from pytest_readonly_vm.image.network_file import ChainFile, NetworkFile
from pytest_readonly_vm.image.qcow2 import DiskBytes, Layer, Qcow2Layer, Unreadable, layer
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.migration import go_on
from pytest_readonly_vm.start.template import written_file

_FIRST = 34 * 512
_SPARE = 1 << 30
Identity = tuple[int, int]
"""Device and inode of a file."""


@contextlib.asynccontextmanager
async def standing_still(instance: Instance) -> AsyncIterator[None]:
    """The guest does not run meanwhile, and what QEMU has to write to files is in them. On the loop."""
    is_running = bool((await instance.qmp.command("query-status"))["running"])
    with instance.qmp.liveness.expecting_stop():
        await instance.qmp.command("stop")  # which writes all drives' caches, for a guest that stands still as well
        try:
            yield
        finally:
            if is_running:
                await go_on(instance.qmp)


async def open_written(instance: Instance, disk: AttachedDisk) -> int:
    """A descriptor of the file that takes the guest's writes, for reading; for whoever asks to close. On the loop."""
    return os.open(await written_file(instance, disk), os.O_RDONLY | os.O_CLOEXEC)


@dataclass(frozen=True, slots=True)
class DiskView:
    """A disk by the files that it is of, the topmost first, of which each is known again."""

    content: DiskBytes
    files: tuple[tuple[Identity, Layer], ...]

    @classmethod
    def of(cls, written: int, below: Sequence[ChainFile]) -> "DiskView":
        """:param written: a descriptor of the file that takes the guest's writes; the others are below.
        :raises Unreadable: one of them is in a format that is not read here.
        """
        if [file for file in below if isinstance(file, NetworkFile)]:
            raise Unreadable("its base is on the network, and not read from there for this")
        here = [(file.descriptor, file.format) for file in below if isinstance(file, ImageFile)]
        described = [(written, "qcow2"), *here]
        files = tuple((_identity(descriptor), layer(descriptor, format)) for descriptor, format in described)
        layers = [one for _, one in files]
        # What a sound file system needs is less, whatever is in it; see there for what counts how much.
        return cls(DiskBytes(layers, budget=3 * max(one.size for one in layers) + _SPARE), files)

    def above(self, other: "DiskView") -> Iterator[Qcow2Layer]:
        """The files that this disk has, and the other one has not.

        :raises Unreadable: they have none in common, or not the same below.
        """
        theirs = [identity for identity, _ in other.files]
        for position, (identity, one) in enumerate(self.files):
            if identity in theirs:
                if theirs[theirs.index(identity) :] != [known for known, _ in self.files[position:]]:
                    break
                return
            if not isinstance(one, Qcow2Layer):
                break
            yield one
        raise Unreadable("the disk is of other files than it was")

    def file_systems(self) -> Iterator[Ext4]:
        """Those of ext4's kind: the disk as a whole, and in partitions."""
        first = self.content.read(0, _FIRST)
        for start in (0, *(one.offset for one in partitions(first))):
            with contextlib.suppress(Unreadable), making_sense():
                yield Ext4(self.content, start)


def _identity(descriptor: int) -> Identity:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
