"""Owns a cut: what a disk may hold after its power has gone, as a test looks at it."""

import abc
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.disks.cut_disk import CutDisk
from pytest_readonly_vm.disks.cut_rules import Survivors
from pytest_readonly_vm.disks.write_log import WriteLog
from pytest_readonly_vm.errors import RecordingError, VmError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.machine.cut_mount import mount_cut, plug_cut
from pytest_readonly_vm.machine.host_disk import HostDisks
from pytest_readonly_vm.machine.mark import Mark
from pytest_readonly_vm.qemu.launch import InitialState

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.disk import MachineDisk

PATH = "{disk}"
"""In a command of `Cut.check` what the path of the disk takes the place of."""


class Recorded(abc.ABC):
    """That of which cuts are."""

    disk: "MachineDisk"

    @property
    @abc.abstractmethod
    def log(self) -> WriteLog: ...

    @property
    @abc.abstractmethod
    def host_disks(self) -> HostDisks: ...

    @abc.abstractmethod
    def disk_of(self, state: Survivors) -> CutDisk:
        """The files of a disk, which whoever asks closes.

        :raises RecordingError: there is no room for them.
        """

    @abc.abstractmethod
    def marks_by(self, moment: int) -> Sequence[Mark]:
        """Those that had been made at a moment."""


@dataclass(frozen=True, slots=True)
class MountedCut:
    """A cut in a machine of its own, in which it is mounted.

    Attributes: `vm`, a `VirtualMachine`; `path`, where in its guest; `device`, which one is mounted there.
    """

    vm: Any
    path: str
    device: str


class Cut:
    """What the disk may hold after a power cut.

    Attributes: `id`, by which `Recording.cut` gives the same one again.
    """

    PATH = PATH
    """In a command for `check`: there it gets the path of the disk."""

    def __init__(self, recorded: Recorded, id: str, state: Survivors) -> None:
        self.id = id
        self.state = state
        self._recorded = recorded

    def __repr__(self) -> str:
        return f"<Cut {self.id} of {self._label}>"

    @property
    def _label(self) -> str:
        disk = self._recorded.disk
        return f"{disk.vm.name}: {disk.name}"

    @property
    def moment(self) -> int:
        """Before which entry of the log power went."""
        return self.state.moment

    @property
    def lost(self) -> int:
        """How many writes are not there, or only in part."""
        return len(self.state.lost)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The marks that were made before, in their order."""
        return tuple(self._recorded.marks_by(self.state.moment))

    @property
    def acknowledged(self) -> tuple[str, ...]:
        """The texts of the marks that were made before: what the disk must have, if the guest keeps its word."""
        return tuple(mark.text for mark in self.marks)

    def _noting(self, how: str) -> contextlib.AbstractContextManager[object]:
        disk = self._recorded.disk
        return disk.vm.instance.qmp.history.noting("cut", f"{disk.name}: {self.id} {how}")

    @contextlib.contextmanager
    def _disk(self) -> Iterator[CutDisk]:
        disk = self._recorded.disk_of(self.state)
        try:
            yield disk
        finally:
            disk.close()

    @contextlib.contextmanager
    def mount(
        self, *, partition: int | None = None, type: str | None = None, options: str = ""
    ) -> Iterator[MountedCut]:
        """Mount it in another machine like the recorded one, pristine and as quick to come as its clones are.

        It is mounted to be written, so that the guest recovers it as after a power cut; nothing of that is kept.

        :param partition: by its number, or 0 for the whole disk; by default the largest that can be mounted.
        :param type: of the file system; by default the guest finds out.
        :param options: for ``mount -o``.
        :raises MountFailed: it cannot be mounted.
        :raises VmError: there is no such machine, or it takes no further disk.
        """
        disk, keeper = self._recorded.disk, self._recorded.disk.vm.keeper
        spec = replace(disk.vm.instance.spec, name=f"{disk.vm.name} ({self.id})", cards=(), slot=None, is_spare=False)
        with self._noting("mounted"), self._disk() as files:
            instance = keeper.anew(spec)
            vm = keeper.adopt(instance)
            try:
                try:
                    disk.loop.run(plug_cut(instance, files))
                except OSError as error:
                    raise RecordingError(f"{self._label}: {self.id}: {explain(error) or error}") from None
                label = f"{self._label}: {self.id}"
                found = mount_cut(vm, label, partition=partition, type=type, options=options)
                yield MountedCut(vm, found.path, found.device)
            finally:
                end(vm)

    @contextlib.contextmanager
    def boot(self) -> Iterator[Any]:
        """Boot a machine like the recorded one that has this disk, from its firmware on; a `VirtualMachine`.

        Its further disks are as they are when such a machine starts.

        :raises GuestDied: it ended while it was booting.
        :raises BootFailed: its firmware found nothing to boot.
        :raises BootTimeout: it did not become ready in time.
        """
        disk, keeper = self._recorded.disk, self._recorded.disk.vm.keeper
        old = disk.vm.instance
        spec = replace(old.spec, name=f"{disk.vm.name} ({self.id})", cards=(), slot=None, is_spare=False)
        files = self._recorded.disk_of(self.state)
        initial = InitialState(
            overlays={disk.name: files.layers},
            named_overlay=spec.config.snapshot == "overlay",
            ssh_key=old.ssh_key,
        )
        with self._noting("booted"):
            vm = keeper.adopt(keeper.maker.booted(spec, initial))
            try:
                yield vm
            finally:
                end(vm)

    def check(self, command: Sequence[str], *, partition: int | None = None, timeout: float = 60.0) -> CommandResult:
        """Have a program of this computer look at it: a raw image in a file that the command has for `PATH`.

        ``cut.check(["e2fsck", "-fn", cut.PATH])``: no shell sees it. It may write to the file; the next one gets
        another.

        :param partition: only this one, by its number; by default the whole disk.
        :param timeout: seconds that it may take.
        :raises RecordingError: the disk cannot be written to a file, or has no such partition.
        :raises VmError: the program cannot be started, or took longer.
        """
        return self._recorded.host_disks.check(
            self.state, command, PATH, partition=partition, timeout=timeout, label=f"{self._label}: {self.id}"
        )

    def export(self, path: str | os.PathLike[str], *, format: str = "qcow2") -> None:
        """Write it to a new image that needs no other.

        :param format: ``qcow2`` or another that QEMU writes, such as ``raw``.
        :raises VmError: `path` exists, or cannot be written.
        """
        target, vm = Path(path).absolute(), self._recorded.disk.vm
        failure = f"{self._label}: {self.id}: {target} cannot be made"
        if target.exists() or target.is_symlink():
            raise VmError(f"{failure}: it exists; an export writes a new file and never another's content")
        try:
            with self._disk() as files, vm.instance.output_guard.file(target) as file:
                qemu_img = vm.instance.spec.hypervisor.qemu_img
                files.convert(file.fileno(), format=format, qemu_img=qemu_img, failure=failure)
        except OSError as error:
            raise VmError(f"{failure}: {error.strerror}") from None


def end(vm: Any) -> None:
    """End a machine that nobody needs any more, at once."""
    if not vm.closed:
        vm.kill()
        vm.close()
