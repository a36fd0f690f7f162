"""Owns the share of this computer that a run's machines get: which budget counts, and where all runs meet."""

import os
from collections.abc import Callable
from pathlib import Path

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.values import size
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.folders import make_private
from pytest_readonly_vm.host.once import Once
from pytest_readonly_vm.host.slots import Budget, Slot, Slots

_PLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
"""The same for all processes of a user on this computer, whatever their TMPDIR."""


class Admission:
    """Gives slots to machines, for one run."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is given a sentence when a machine has to wait."""
        self._tell = tell
        self._slots: Once[str, Slots] = Once()

    def slot(self, config: VmConfig, name: str, *, spare: bool) -> Slot:
        """Wait for room for a machine.

        :param spare: whether it is one before its time, for which nobody waits.
        :raises VmError: there is no room for a spare one.
        :raises HostError: the folder in which all runs meet cannot be used.
        """
        if config.budget == "off":
            return Slot(lambda: None)
        slots = self._slots.get(config.budget, lambda: _slots(config.budget))
        if not spare:
            return slots.take(config.memory, config.cpus, label=name, on_wait=self._tell)
        if (slot := slots.take_spare(config.memory, config.cpus)) is None:
            raise VmError("this computer has no room for a machine before its time")
        return slot


def _slots(budget: str) -> Slots:
    folder = _PLACE / f"pytest-readonly-vm-{os.getuid()}.slots"
    make_private(folder, advice="use --vm-budget=off")
    return Slots(folder, _budget(budget))


def _budget(wanted: str) -> Budget:
    """The budget that a checked value of the setting means; what it leaves open is that of the host."""
    host = Budget.of_host()
    if wanted == "auto":
        return host
    memory, _, cpus = wanted.partition(",")
    return Budget(size(memory), int(cpus) if cpus else host.cpus)
