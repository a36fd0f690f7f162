"""Owns a disk of a machine as a test holds it: where the guest has it, and its content in a file."""

import os
import shlex
from pathlib import Path

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.machine.checkpoints import Rewindable
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.disk import export_disk

_FOUND_LATE = 5.0

_FIND = """
while :; do
for link in /dev/disk/by-id/*[-_]"$1"; do
    [ -b "$link" ] && readlink -f "$link" && exit
done
for disk in /sys/block/*; do
    for file in serial device/serial device/vpd_pg80; do
        [ -r "$disk/$file" ] || continue
        read -r found <"$disk/$file" 2>/dev/null
        case $found in "$1" | *[![:graph:]]"$1") echo "/dev/${disk##*/}" && exit ;; esac
    done
done
[ "$2" -gt 0 ] || exit 1
set -- "$1" $(($2 - 1))
sleep 0.1
done
"""
"""Where the disk with that serial number is: by udev's names, and by the kernel's where there is no udev. As often as
the second word says it is looked for again."""


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
        seconds = round(_FOUND_LATE * self.vm.instance.spec.slowness) if self.attached.was_out else 0
        found = self.vm.ask(f"set -- {shlex.quote(self.serial)} {seconds * 10}\n{_FIND}")
        if not found.ok:
            raise VmError(
                f"{self.vm.name}: the guest has no disk with the serial number {self.serial}; its kernel may have no "
                f"driver for disk_interface={self.attached.spec.interface}"
            )
        return found.stdout.strip()

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
