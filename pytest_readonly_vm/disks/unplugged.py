"""Owns a disk that is taken out of its machine while that runs, and put back where it was, with all that is on it."""

import asyncio
from typing import Any

from pytest_readonly_vm.disks.effects import Effect
from pytest_readonly_vm.disks.filters import Filter, block_device
from pytest_readonly_vm.disks.live_disk import LiveDisk
from pytest_readonly_vm.errors import DiskError, QmpError, WaitTimeout
from pytest_readonly_vm.qemu.drive import properties_of

_PLACES = ("scsi-id", "lun", "channel", "port")
"""Where on its bus a device is, by what QEMU calls that for each bus but PCI's and s390x's."""


class Unplugged(Effect):
    """A disk that the guest has no more."""

    is_counted = False

    def __init__(self, live: LiveDisk, arguments: tuple[str, ...], *, patience: float) -> None:
        """:param arguments: those of its QEMU.
        :param patience: seconds that the guest has to let go of it.
        """
        super().__init__(live)
        self._properties: dict[str, Any] = properties_of(live.attached.name, arguments)
        self._patience = patience
        self._kept: Filter | None = None

    async def begin(self) -> None:
        live = self._live
        if live.attached.is_out:
            raise DiskError(f"{live.attached.name}: unplug(): it is taken out already")
        self._properties |= await self._place()
        # What a drive has in it goes with its device, but for what has a node of ours above it.
        self._kept = await live.filters.insert({"driver": "raw"})
        try:
            await live.qmp.command("device_del", {"id": live.attached.device})
            await self._gone()
        except QmpError as refused:
            raise DiskError(
                f"{live.attached.name}: unplug(): {refused.description}; a disk with interface=scsi or usb can be "
                "taken out of any machine that has these"
            ) from None
        except (TimeoutError, WaitTimeout):
            error = DiskError(
                f"{live.attached.name}: unplug(): the guest does not let go of it in {self._patience:g} s"
            )
            error.add_note("a kernel that was built without hot-plugging never does")
            raise error from None
        live.attached.is_out = live.filters.is_out = True

    async def _gone(self) -> None:
        device = self._live.attached.device
        async with asyncio.timeout(self._patience):
            while await block_device(self._live.qmp, device) is not None:
                await self._live.qmp.next_event("DEVICE_DELETED", {"device": device}, self._patience, of_guest=True)

    async def _place(self) -> dict[str, Any]:
        """Where it is: a copy of the machine has it there, and its state is known by that."""
        path = f"/machine/peripheral/{self._live.attached.device}"
        listed = {one["name"] for one in await self._live.qmp.command("qom-list", {"path": path})}

        async def told(name: str) -> Any:
            return await self._live.qmp.command("qom-get", {"path": path, "property": name})

        found: dict[str, Any] = {"bus": str(await told("parent_bus")).rpartition("/")[2]}
        if "legacy-addr" in listed:
            found["addr"] = await told("legacy-addr")
        if "dev_id" in listed:
            found["devno"] = await told("dev_id")
        found |= {name: await told(name) for name in _PLACES if name in listed}
        return found

    async def end(self) -> int:
        live, kept = self._live, self._kept
        if kept is None:
            return 0
        if live.attached.is_out:
            await live.qmp.command("device_add", {**self._properties, "drive": live.filters.top})
            live.attached.is_out = live.filters.is_out = False
            live.attached.was_out = True
        if await block_device(live.qmp, live.attached.device) is not None:
            await live.filters.remove(kept)
            await live.apply_limits()
        return 0

    async def _count(self) -> int:
        return 0
