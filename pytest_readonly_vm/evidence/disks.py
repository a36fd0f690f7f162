"""Owns what the evidence of a machine says of the faults of its disks."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


def faults_of(vm: "VirtualMachine") -> dict[str, str]:
    """What the test has done to its disks, and what that has come to so far; nothing if it has done nothing."""
    if not vm.has_used_disks:
        return {}
    told = [words for disk in vm.disks.values() for words in disk.told()]
    return {"faults": "; ".join(told)} if told else {}
