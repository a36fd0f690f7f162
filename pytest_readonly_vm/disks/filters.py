"""Owns the filters between a guest's disk and its image while the machine runs. The one door for them.

QEMU can have a device use another block node at any time (`qom-set` of its `drive`), so a filter is put in on top.
What is not on top has to come out as well, and what is above it keeps its state meanwhile: counts, rules, a log. But
a filter's own child is for life. So above each there is a joint, a plain `raw` node, whose child QEMU can exchange
(`blockdev-reopen`). It stays for as long as there is a filter above it, one for all that were taken out there.

::

    device -> joint 2 -> filter 2 -> joint 1 -> filter 1 -> the topmost overlay
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.errors import DiskError, QmpError

_numbers = itertools.count(1)
_PREFIX = "filter-"
_JOINT = "-joint"


def is_filter(node: str) -> bool:
    """Whether a block node of this name is one of those that are put in here."""
    return node.startswith(_PREFIX)


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """A filter that is in."""

    node: str
    """QEMU's name for it."""

    @property
    def joint(self) -> str:
        """The name of the node above it, by which a device or another joint has it."""
        return f"{self.node}{_JOINT}"


class Filters:
    """Those of one disk of one QEMU. For the loop; each may be taken out before the others, in any order.

    A machine that is made of a frozen state has none. Where QEMU has ended there is nothing to take out: see `remove`.
    """

    def __init__(self, qmp: Qmp, device: str, bottom: Callable[[], Awaitable[str]]) -> None:
        """:param device: QEMU's id of the device that has the disk.
        :param bottom: tells which node all filters are above: the disk's topmost overlay at this moment.
        """
        self._qmp = qmp
        self._device = device
        self._bottom = bottom
        self._stack: list[Filter | str] = []
        """From the lowest on; of those that were taken out below others only the name of a joint."""
        self.is_out = False
        """Whether the device has been taken out, so that it uses none of them."""
        self._changing = asyncio.Lock()
        self._path = ""

    async def path(self) -> str:
        """That of the object that has the disk.

        :raises DiskError: the device has been taken out.
        """
        self._path = self._path or await device_path(self._qmp, self._device)
        return self._path

    @property
    def top(self) -> str:
        """The node that the device is to have, while there is a filter."""
        return _top(self._stack[-1])

    @property
    def all(self) -> tuple[Filter, ...]:
        """Those that are in, from the lowest on."""
        return tuple(one for one in self._stack if isinstance(one, Filter))

    async def insert(self, options: Mapping[str, object], *, child: str = "file") -> Filter:
        """Put a filter in, above those that are there.

        :param options: of `blockdev-add`, but for the name and the child: ``{"driver": "blkdebug", …}``.
        :param child: what the driver calls the node that it filters: ``image`` of blkdebug, else ``file``.
        :raises QmpError: QEMU refuses it; all is as before.
        :raises GuestDied: QEMU has ended.
        """
        async with self._changing:
            found = Filter(f"{_PREFIX}{next(_numbers)}")
            below = _top(self._stack[-1]) if self._stack else await self._bottom()
            try:
                # Discards are for who is below to take or to ignore.
                await self._add({**options, "node-name": found.node, child: below, "discard": "unmap"})
                await self._add(_joint(found.joint, found.node))
                await self._use(found.joint)
            except QmpError:
                await self._delete(found.joint, found.node)
                raise
            self._stack.append(found)
            return found

    async def remove(self, filter: Filter) -> None:
        """Take one out; one that is not in any more is none of those here, and nothing is done.

        What the guest has asked of the disk and has no answer to yet is waited for: a filter that holds it back has to
        let go of it first.

        :raises QmpError: QEMU refuses it.
        :raises GuestDied: QEMU has ended.
        """
        async with self._changing:
            if filter not in self._stack:
                return
            place = first = last = self._stack.index(filter)
            while first and isinstance(self._stack[first - 1], str):
                first -= 1
            while last + 1 < len(self._stack) and isinstance(self._stack[last + 1], str):
                last += 1
            below = _top(self._stack[first - 1]) if first else await self._bottom()
            *gone, kept = map(_top, self._stack[first : last + 1])
            if last == len(self._stack) - 1:
                await self._use(below)
                gone.append(kept)
                self._stack[first:] = []
            else:
                # Filters above go on as they are, with all that they have counted.
                await self._qmp.command("blockdev-reopen", {"options": [_joint(kept, below)]})
                self._stack[first : last + 1] = [kept]
            gone.insert(place - first, filter.node)
            await self._delete(*reversed(gone))

    @contextlib.asynccontextmanager
    async def bypassed(self) -> AsyncIterator[None]:
        """The device has the disk without any filter meanwhile; for a guest that stands still.

        :raises QmpError: QEMU refuses it.
        :raises GuestDied: QEMU has ended.
        """
        async with self._changing:
            if self._stack:
                await self._use(await self._bottom())
            try:
                yield
            finally:
                if self._stack:
                    await self._use(_top(self._stack[-1]))

    async def _add(self, options: Mapping[str, object]) -> None:
        await self._qmp.command("blockdev-add", options)

    async def _use(self, node: str) -> None:
        if self.is_out:
            return
        await self._qmp.command("qom-set", {"path": await self.path(), "property": "drive", "value": node})

    async def _delete(self, *nodes: str) -> None:
        for node in nodes:
            with contextlib.suppress(QmpError):
                await self._qmp.command("blockdev-del", {"node-name": node})


def _top(entry: Filter | str) -> str:
    return entry.joint if isinstance(entry, Filter) else entry


def _joint(name: str, child: str) -> dict[str, object]:
    return {"driver": "raw", "node-name": name, "file": child, "discard": "unmap"}


async def block_device(qmp: Qmp, device: str) -> dict[str, Any] | None:
    """What `query-block` says of the disk of a device, by the device's id; None if there is no such device."""
    inner = f"/machine/peripheral/{device}/"
    for found in await qmp.command("query-block"):
        qdev = str(found.get("qdev", ""))
        if qdev == device or f"{qdev}/".startswith(inner):
            return dict(found)
    return None


async def device_path(qmp: Qmp, device: str) -> str:
    """The path of the object that has the disk of a device: for some it is another one, within the device.

    :raises DiskError: there is no such device.
    """
    if (found := await block_device(qmp, device)) is None:
        raise DiskError(f"QEMU has no device {device}; it has been taken out")
    qdev = str(found["qdev"])
    return qdev if qdev.startswith("/") else f"/machine/peripheral/{qdev}"
