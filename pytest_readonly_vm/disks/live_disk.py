"""Owns what faults do to a disk of one QEMU that runs: filters, limits, what it has counted, bytes below all."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.disks.filters import Filters, block_device
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk

_NO_LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
_FOR_GOOD: Mapping[str, int] = {"bps": 1}
_FILL = 1 << 20  # bytes, at one a second: 12 days
_FOR_A_WHILE: Mapping[str, int] = {"iops": 1, "iops_size": 4096}
_FILL_FOR_A_WHILE = 60 * 4096  # bytes, for each 4096 a second


class LiveDisk:
    """For the loop. Another one when the machine is made anew."""

    def __init__(self, qmp: Qmp, attached: AttachedDisk, folder: Path) -> None:
        """:param folder: the machine's own, where its QEMU may write."""
        self.qmp = qmp
        self.attached = attached
        self.folder = folder
        self.filters = Filters(qmp, attached.device, lambda: attached.node(qmp))
        self._limits: dict[object, Mapping[str, int]] = {}
        self._holding: set[object] = set()

    @property
    def can_pause(self) -> bool:
        """Whether an error can have the machine stand still: QEMU's nvme passes all on to the guest."""
        return self.attached.spec.interface != "nvme"

    async def stats(self) -> Mapping[str, int]:
        """What QEMU has counted of the guest's requests; nothing if the disk is not there.

        :raises GuestDied: QEMU has ended.
        """
        device = self.attached.device
        path = await self.filters.path()
        for found in await self.qmp.command("query-blockstats"):
            if found.get("device") == self.attached.drive or found.get("qdev") in (device, path):
                return dict(found["stats"])
        return {}

    async def size(self) -> int:
        """In bytes."""
        return (await self.attached.virtual_sizes(self.qmp))[0]

    # Limits, which are of the device and not of a filter: whatever QEMU waits for, as it resets a device or stops, gets
    # through them, where a filter below another one would never let go of it.

    async def limit(self, who: object, limits: Mapping[str, int]) -> None:
        """Have limits be on, in the words of `block_set_io_throttle`; of several the lowest."""
        self._limits[who] = limits
        await self.apply_limits()

    async def hold(self, who: object) -> None:
        """Let no read and no write come to an end from now on."""
        self._holding.add(who)
        await self.apply_limits()

    async def let_go(self, who: object) -> None:
        """Take away the limits of one, or its hold; what waited goes on."""
        self._limits.pop(who, None)
        self._holding.discard(who)
        if await block_device(self.qmp, self.attached.device) is not None:
            await self.apply_limits()

    async def let_all_go(self) -> None:
        """Take away all limits and holds, as the machine ends; what waited goes on."""
        self._limits.clear()
        self._holding.clear()
        if await block_device(self.qmp, self.attached.device) is not None:
            await self.apply_limits()

    async def apply_limits(self) -> None:
        """Have the device know them; it forgets them when it is taken out."""
        if not self._holding:
            await self._set_limits(_lowest(self._limits.values()))
            return
        # What is passed is paid for afterwards, so the first request would get through: it is one of ours. An nvme
        # whose guest gives up waits within QEMU, which does nothing else then, and is not to wait for ever.
        limits, fill = (_FOR_GOOD, _FILL) if self.can_pause else (_FOR_A_WHILE, _FILL_FOR_A_WHILE)
        async with self.bypassed():
            await self._set_limits(limits)
            await self.qemu_io(f"read 0 {min(fill, await self.size())}")

    async def _set_limits(self, limits: Mapping[str, int]) -> None:
        path = await self.filters.path()
        await self.qmp.command("block_set_io_throttle", {"id": path, **_NO_LIMITS, **limits})

    # Bytes.

    @contextlib.asynccontextmanager
    async def bypassed(self) -> AsyncIterator[None]:
        """The guest stands still meanwhile, and what is read and written here comes by no filter."""
        async with self.stopped(), self.filters.bypassed():
            yield

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """The guest stands still meanwhile, if it does not anyway."""
        with self.qmp.liveness.expecting_stop():
            is_running = (await self.qmp.command("query-status"))["running"]
            if is_running:
                await self.qmp.command("stop")
            try:
                yield
            finally:
                if is_running:
                    await self.qmp.command("cont")

    async def qemu_io(self, command: str) -> None:
        """Have QEMU read or write by the disk's device. What comes of it it tells nobody but its own terminal."""
        path = await self.filters.path()
        line = f'qemu-io -d {path} "{command}"'
        await self.qmp.command("human-monitor-command", {"command-line": line})


def _lowest(limits: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in limits:
        for name, value in one.items():
            found[name] = min(value, found.get(name, value))
    return found
