"""Owns the filter that writes down what a guest does to a disk, in the QEMU that runs it."""

import asyncio
import contextlib
import os
from collections.abc import Callable

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.disks.filters import Filter, Filters
from pytest_readonly_vm.disks.write_log import SECTOR
from pytest_readonly_vm.errors import VmError

_FOREVER = 1e9


class LogFilter:
    """One that is in. For the loop."""

    def __init__(self, qmp: Qmp, filters: Filters) -> None:
        self._qmp = qmp
        self._filters = filters
        self._filter: Filter | None = None
        self._node = ""
        self._log = -1
        self.length = 0
        """Bytes of the log when it began to be taken out: QEMU flushes then, and the guest did not."""
        self._watch: asyncio.Task[None] | None = None

    @property
    def was_in(self) -> bool:
        """Whether it has ever been in."""
        return self._filter is not None

    async def insert(self, log: int, *, limit: int, on_full: Callable[[], object]) -> None:
        """Put it in.

        :param log: a descriptor of an empty file, which QEMU gets a copy of.
        :param limit: bytes; when the log has more it is taken out, and `on_full` is called before.
        :raises QmpError: QEMU refuses it.
        """
        self._log = log
        fdset = await self._qmp.hand_over(log)
        self._node = f"write-log-{fdset}"
        file = {
            "driver": "file",
            "node-name": self._node,
            "filename": f"/dev/fdset/{fdset}",
            "locking": "off",
            "cache": {"no-flush": True},  # the log is to outlive QEMU, not this computer
        }
        await self._qmp.command("blockdev-add", file)
        threshold = {"node-name": self._node, "write-threshold": limit}
        await self._qmp.command("block-set-write-threshold", threshold)
        options = {"driver": "blklogwrites", "log": self._node, "log-sector-size": SECTOR}
        self._filter = await self._filters.insert(options)
        self._watch = asyncio.ensure_future(self._watch_size(on_full))

    async def _watch_size(self, on_full: Callable[[], object]) -> None:
        with contextlib.suppress(VmError):
            await self._qmp.next_event("BLOCK_WRITE_THRESHOLD", {"node-name": self._node}, _FOREVER)
            on_full()
            await self._take_out()

    async def remove(self) -> None:
        """Take it out; QEMU has written all of the log then.

        :raises QmpError: QEMU refuses it.
        :raises GuestDied: QEMU has ended.
        """
        self.forget()
        await self._take_out()

    async def _take_out(self) -> None:
        if self._filter is not None:
            self.length = self.length or os.fstat(self._log).st_size
            await self._filters.remove(self._filter)
            await self._qmp.attempt("blockdev-del", {"node-name": self._node})

    def forget(self) -> None:
        """Do no more for it: its QEMU ends."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
