"""Owns `VirtualDisk`: all that a test can do with a disk of a machine."""

from pytest_readonly_vm.machine.recorded_disk import RecordedDisk


class VirtualDisk(RecordedDisk):
    """A disk of a machine: `VirtualMachine.disk` is the first, `VirtualMachine.disks` has all of them by their names.

    Attributes: `vm`, the machine; `name`, what the disk is called: that of the setting ``image`` is ``disk0``.
    """
