"""Owns interrupts that were pending when a guest was frozen, and that QEMU forgets: those of a s390x that it emulates.

Its interrupt controller saves which are masked, and not which are pending (QEMU's ``hw/intc/s390_flic.c``). A copy
would wait for ever for a device that has answered. What is saved of each processor (``cpu_common``, in QEMU's
``hw/core/cpu-system.c``) tells whether it had one to take.
"""

import os
import re

from pytest_readonly_vm.qemu.instance import Instance

_PROCESSOR = re.compile(rb"\x04.{4}\x0acpu_common.{4}\0\0\0\x01.{4}(?P<requests>.{4})", re.DOTALL)
"""The beginning of a section, its number, name, instance and version; whether the processor is halted; its requests."""
_INTERRUPT = 0x2
_DEVICES = 4 << 20
"""Bytes at the end of a state in which those of devices are: RAM comes first."""


def forgets_interrupt(instance: Instance, state: int) -> bool:
    """Whether in a state of a machine, a descriptor of QEMU's, an interrupt is missing that a guest waits for."""
    hypervisor = instance.spec.hypervisor
    if hypervisor.qemu.arch != "s390x" or hypervisor.accelerator.name != "tcg":
        return False
    devices = os.pread(state, _DEVICES, max(0, os.fstat(state).st_size - _DEVICES))
    requests = [int.from_bytes(found["requests"]) for found in _PROCESSOR.finditer(devices)]
    # A state that says nothing of its processors is one of a QEMU that is not known here.
    return not requests or any(one & _INTERRUPT for one in requests)
