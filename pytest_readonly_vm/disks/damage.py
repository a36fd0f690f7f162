"""Owns bytes of a disk that are others than were written, below all that the guest knows, until they are mended."""

import asyncio
import secrets

from pytest_readonly_vm.disks.effects import Effect
from pytest_readonly_vm.disks.faults import SECTOR
from pytest_readonly_vm.disks.live_disk import LiveDisk

_PATIENCE = 30.0
_INVERTED = bytes(255 - byte for byte in range(256))


class Damaged(Effect):
    """Bytes with each of their bits inverted. What the guest writes there meanwhile is whole, and stays.

    QEMU does not tell what is read where: it counts all reads of the disk.
    """

    unused = "the guest has read nothing from the disk: what it has in its memory it does not read"

    def __init__(self, live: LiveDisk, offset: int, length: int) -> None:
        super().__init__(live)
        self._offset = offset
        self._length = length
        self._good = b""

    async def begin(self) -> None:
        async with self._live.bypassed():
            self._good = await self._exchange(bytes(self._length))
            await self._write(self._good.translate(_INVERTED))
        self._before = await self._count()

    async def end(self) -> int:
        if not self._good:
            return 0
        found = await self.hits()
        async with self._live.bypassed():
            now = await self._exchange(self._good)
            bad = self._good.translate(_INVERTED)
            # By sectors, which is what guests write.
            ends = [*range(-self._offset % SECTOR or SECTOR, self._length, SECTOR), self._length]
            pieces = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
            mended = b"".join(self._good[piece] if now[piece] == bad[piece] else now[piece] for piece in pieces)
            if mended != self._good:
                await self._write(mended)
        return found

    async def _count(self) -> int:
        return (await self._live.stats()).get("rd_operations", 0)

    async def _exchange(self, content: bytes) -> bytes:
        """Write, and tell what was there before.

        QEMU's command that reads answers nobody but its terminal. But its backups keep what is about to be overwritten.
        """
        qmp = self._live.qmp
        name = f"damage-{secrets.token_hex(4)}"
        path = self._live.folder / name
        with path.open("xb") as kept:
            kept.truncate(await self._live.size())
        try:
            file = {"driver": "file", "filename": str(path)}
            await qmp.command("blockdev-add", {"driver": "raw", "node-name": name, "file": file})
            device = await self._live.attached.node(qmp)
            backup = {"job-id": name, "device": device, "target": name, "sync": "none"}
            await qmp.command("blockdev-backup", backup)
            try:
                await self._write(content)
            finally:
                await qmp.command("block-job-cancel", {"device": name})
                await qmp.next_event("BLOCK_JOB_CANCELLED", {"device": name}, _PATIENCE)
            with path.open("rb") as kept:
                kept.seek(self._offset)
                return kept.read(self._length)
        finally:
            await qmp.attempt("blockdev-del", {"node-name": name})
            path.unlink(missing_ok=True)

    async def _write(self, content: bytes) -> None:
        path = self._live.folder / f"damage-{secrets.token_hex(4)}"
        await asyncio.to_thread(path.write_bytes, content)
        try:
            await self._live.qemu_io(f"write -s {path} {self._offset} {self._length}")
        finally:
            path.unlink(missing_ok=True)
