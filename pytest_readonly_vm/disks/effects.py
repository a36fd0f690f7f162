"""Owns what faults do to a disk: requests that fail, that wait, that come to no end. Each is counted by QEMU itself."""

import abc
from collections.abc import Mapping
from typing import Any

from pytest_readonly_vm.channels.qmp import QmpEvent
from pytest_readonly_vm.disks.faults import Errors, Limits
from pytest_readonly_vm.disks.filters import Filter
from pytest_readonly_vm.disks.live_disk import LiveDisk
from pytest_readonly_vm.errors import DiskError

_REQUESTS = ("rd_operations", "wr_operations")


class Effect(abc.ABC):
    """What a fault does to a disk of one QEMU. For the loop."""

    unused = "the guest has asked nothing such of the disk"
    """Why it has met nothing."""
    is_counted = True
    """Whether it is known what it has met."""

    def __init__(self, live: LiveDisk) -> None:
        self._live = live
        self._before = 0

    @abc.abstractmethod
    async def begin(self) -> None:
        """Have it be on.

        :raises DiskError: this disk has no such thing.
        :raises QmpError: QEMU refuses it.
        """

    @abc.abstractmethod
    async def end(self) -> int:
        """Undo it; how many requests it has met. What has been begun only in part is undone as well."""

    async def hits(self) -> int:
        """How many of the guest's requests it has met so far; while it is on."""
        return await self._count() - self._before

    @abc.abstractmethod
    async def _count(self) -> int: ...


class Failing(Effect):
    """Requests that fail."""

    def __init__(self, live: LiveDisk, errors: Errors) -> None:
        super().__init__(live)
        self._errors = errors
        self._filter: Filter | None = None
        self._stops = 0
        self._stands_still = False
        # QEMU's nvme counts reads and writes, but no flush.
        self.is_counted = errors.pauses or errors.kind != "flush" or live.can_pause

    async def begin(self) -> None:
        if self._errors.pauses and not self._live.can_pause:
            raise DiskError(
                f"{self._live.attached.name}: {self._errors.words}: QEMU passes each error of an nvme disk on to the "
                "guest; use guest='report', or a disk of another interface"
            )
        self._before = await self._count()
        self._filter = await self._live.filters.insert(self._errors.options, child="image")
        if self._errors.pauses:
            self._live.qmp.listeners.append(self._hear)
            self._live.qmp.liveness.faults.append(self.explain)

    def _hear(self, event: QmpEvent) -> None:
        if event.name == "BLOCK_IO_ERROR" and self.explain(event.data):
            self._stops += 1
            self._stands_still = True
        elif event.name == "RESUME":
            self._stands_still = False

    def explain(self, data: Mapping[str, Any]) -> str | None:
        """What it is, if by it the machine stands still that has reported this of a request."""
        operation = "read" if self._errors.kind == "read" else "write"
        is_ours = data.get("operation") == operation and data.get("nospace") and data.get("action") == "stop"
        joints = [one.joint for one in self._live.filters.all]
        return self._errors.words if is_ours and data.get("node-name") in joints else None

    async def end(self) -> int:
        qmp = self._live.qmp
        if self._filter is None:
            return 0
        await self._live.filters.remove(self._filter)
        found = await self.hits()
        if self._errors.pauses:
            qmp.listeners.remove(self._hear)
            qmp.liveness.faults.remove(self.explain)
            if self._stands_still:
                await qmp.command("cont")  # and what has failed is done again
        return found

    async def _count(self) -> int:
        # Requests by which the machine stops do not count as failed: they are done again. Since QEMU 10 not each of
        # several at a time is told, but the first is.
        if self._errors.pauses:
            return self._stops
        stats = await self._live.stats()
        return sum(stats.get(name, 0) for name in self._errors.counted)


class Waiting(Effect):
    """Requests that pass later, within limits; or, without any, those that come to no end until it is over."""

    def __init__(self, live: LiveDisk, slow: Limits | None = None) -> None:
        super().__init__(live)
        self._slow = slow

    async def begin(self) -> None:
        self._before = await self._count()
        if self._slow is None:
            await self._live.hold(self)
        else:
            await self._live.limit(self, self._slow.limits)

    async def end(self) -> int:
        # As QEMU stops, what waits comes to its end, and is counted.
        async with self._live.stopped():
            await self._live.let_go(self)
            return await self.hits()

    async def _count(self) -> int:
        stats = await self._live.stats()
        return sum(stats.get(name, 0) for name in (*_REQUESTS, "failed_rd_operations", "failed_wr_operations"))
