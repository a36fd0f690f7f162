"""Owns a disk of a machine as a test holds it: where the guest has it, and its content in a file."""

import contextlib
import os
import shlex
from pathlib import Path

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.machine.checkpoints import Rewindable
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.disk import export_disk

_FOUND_LATE = 5.0

_FIND = """
look() {
    for link in /dev/disk/by-id/*[-_]"$1"; do
        [ -b "$link" ] && readlink -f "$link" && return
    done
    for disk in /sys/block/*; do
        for file in serial device/serial device/vpd_pg80; do
            [ -r "$disk/$file" ] || continue
            read -r found <"$disk/$file" 2>/dev/null
            case $found in "$1" | *[![:graph:]]"$1") echo "/dev/${disk##*/}" && return ;; esac
        done
    done
    return 1
}
while :; do
    if place=$(look "$1"); then
        [ "$3" = found ] && echo "$place" && exit
    elif [ "$3" = gone ]; then
        exit 0
    fi
    [ "$2" -gt 0 ] || exit 1
    set -- "$1" $(($2 - 1)) "$3"
    sleep 0.1
done
"""
"""Where the disk with the serial number that is the first word is: by udev's names, and by the kernel's where there is
no udev. It is looked for as often as the second word says, until it is what the third does: found, or gone."""


class MachineDisk:
    """One disk of a machine.

    Attributes: `vm`, the machine; `name`, what the disk is called: that of the setting ``image`` is ``disk0``.
    """

    def __init__(self, vm: Rewindable, name: str) -> None:
        self.vm = vm
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.vm.name}>"

    @property
    def loop(self) -> LoopThread:
        return self.vm.loop

    @property
    def attached(self) -> AttachedDisk:
        """The same of the QEMU that the machine has at this moment; another one after `reset` and `restore`."""
        return next(disk for disk in self.vm.instance.disks if disk.name == self.name)

    @property
    def serial(self) -> str:
        """Its serial number, by which the guest knows it."""
        return self.attached.spec.serial

    def guest_path(self) -> str:
        """The device that the guest has it as: ``/dev/vdb``. Asks the guest, and waits for it to find one that was put
        back.

        :raises VmError: the guest has no such disk, perhaps for lack of a driver.
        """
        found = self._looked_for("found", _FOUND_LATE if self.attached.was_out else 0.0)
        if not found.ok:
            raise VmError(
                f"{self.vm.name}: the guest has no disk with the serial number {self.serial}; its kernel may have no "
                f"driver for disk_interface={self.attached.spec.interface}"
            )
        return found.stdout.strip()

    def _looked_for(self, wanted: str, patience: float) -> CommandResult:
        """Have the guest look for it until it is ``found``, or ``gone``, for so many seconds times `slowness`."""
        tries = round(patience * self.vm.instance.spec.slowness * 10)
        return self.vm.ask(f"set -- {shlex.quote(self.serial)} {tries} {wanted}\n{_FIND}")

    def _wait_until_gone(self) -> None:
        """Have the guest forget it, which has been taken out, if it can be asked."""
        if self.vm.channel is not None:
            with contextlib.suppress(VmError):
                self._looked_for("gone", _FOUND_LATE)

    def export(self, path: str | os.PathLike[str], *, format: str = "qcow2", timeout: float = 600.0) -> None:
        """Write the disk, as it is at this moment, to a new image that needs no other; the guest runs on meanwhile.

        What the guest has not yet written is not in it, as after a loss of power; have it run ``sync`` before.

        :param format: ``qcow2`` or another format that QEMU writes, such as ``raw``.
        :param timeout: seconds that it may take.
        :raises VmError: `path` exists, or cannot be written.
        :raises WaitTimeout: it took longer.
        :raises GuestDied: QEMU ended meanwhile.
        """
        export_disk(
            self.loop,
            self.vm.instance.qmp,
            self.attached,
            Path(path).absolute(),
            format=format,
            timeout=timeout,
            name=self.vm.name,
            qemu_img=self.vm.instance.spec.hypervisor.qemu_img,
        )
