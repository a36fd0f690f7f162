"""Owns a fault of a disk as a test holds it: on, counted, ended, and whether it has met anything."""

from functools import partial
from typing import TYPE_CHECKING

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.disks.effects import Effect
from pytest_readonly_vm.errors import FaultUnused, GuestDied, WaitTimeout
from pytest_readonly_vm.host.loop import within
from pytest_readonly_vm.machine.undoable import Undoable

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.disk import MachineDisk

_PATIENCE = 5.0


class DiskFault(Undoable):
    """A fault that is on from the call that makes it until its context ends, `end` is called, or the test is over.

    If it has not met any request of the guest's by then, `FaultUnused` is raised, unless the test has failed anyway.
    """

    def __init__(self, disk: "MachineDisk", effect: Effect, entry: HistoryEntry, *, may_be_unused: bool) -> None:
        super().__init__(entry)
        self._disk = disk
        self._effect = effect
        self._instance = disk.vm.instance
        self._may_be_unused = may_be_unused
        self._hits = 0
        self._is_known = effect.is_counted

    def begin(self) -> None:
        """Have it be on.

        :raises DiskError: this disk has no such thing.
        :raises GuestDied: QEMU has ended.
        """
        try:
            self._disk.loop.run(self._effect.begin())
        except BaseException:
            self.abandon()
            raise

    @property
    def is_on(self) -> bool:
        """Whether it has not been ended. The machine is made anew without it, by `reset`, `restore` and `fork`."""
        return self._is_on and not self._is_gone

    @property
    def _is_gone(self) -> bool:
        """Whether what it was on is not there any more."""
        return self._instance is not self._disk.vm.instance or not self._instance.is_alive

    @property
    def hits(self) -> int:
        """How many of the guest's requests it has met, so far or until its end; 0 as well where none are counted."""
        self.look()
        return self._hits

    def look(self) -> None:
        if self.is_on:
            try:
                late = partial(WaitTimeout, f"{self._disk.vm.name}: {self.label}: QEMU does not tell what it has met")
                self._hits = self._disk.loop.run(within(_PATIENCE, self._effect.hits(), late))
            except GuestDied:
                if not self._is_gone:
                    raise

    def _off(self) -> None:
        self._disk.loop.run(self._effect_off())

    async def _effect_off(self) -> None:
        if self._instance is not self._disk.vm.instance:
            return  # it was looked at before the other one came
        try:
            self._hits = await self._effect.end()
        except GuestDied:
            if not self._is_gone:
                raise
            self._is_known = False  # only that QEMU has counted

    def _check(self) -> None:
        if self._hits or self._may_be_unused or not self._is_known:
            return
        unused = FaultUnused(f"{self._disk.vm.name}: {self.label}: {self._effect.unused}")
        unused.add_note("a fault that need not meet anything is made with may_be_unused=True")
        raise unused

    def __str__(self) -> str:
        if not self._is_known and not self._hits:
            return f"{self.label}: not counted"
        return f"{self.label}: {self._hits} {'request' if self._hits == 1 else 'requests'} met"
