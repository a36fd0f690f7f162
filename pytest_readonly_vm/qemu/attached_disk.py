"""Owns one disk of a QEMU that runs: its files, and the node of QEMU's that takes the guest's writes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.network_file import ChainFile
from pytest_readonly_vm.qemu.disk_spec import DiskSpec
from pytest_readonly_vm.qemu.drive import device_of, drive_of


@dataclass(slots=True, eq=False)
class AttachedDisk:
    """A disk of one run of QEMU."""

    spec: DiskSpec
    frozen_overlays: tuple[ImageFile, ...]
    """The files between those of its image and the one that the guest writes to, the topmost first."""
    overlay: Path | None
    """The named file that takes the guest's writes; None when they go to one without a name."""
    written: str = ""
    """The name that this file has, or had; known with the node."""
    is_out: bool = False
    """Whether it has been taken out of the machine."""
    was_out: bool = False
    """Whether it was put back, of which a guest hears a little later."""
    _node: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def drive(self) -> str:
        """QEMU's name for it."""
        return drive_of(self.name)

    @property
    def device(self) -> str:
        """QEMU's name for the device that the guest sees."""
        return device_of(self.name)

    @property
    def files(self) -> tuple[ChainFile, ...]:
        """Those of its image, which nobody writes."""
        return self.spec.chain

    async def node(self, qmp: Qmp) -> str:
        """QEMU's name for what takes the guest's writes, below any filter; on the loop."""
        if not self._node:  # and no filter is above it yet, as that takes this name
            [found] = [one for one in await qmp.command("query-block") if one["device"] == self.drive]
            if "inserted" not in found:
                raise VmError(f"{self.name}: QEMU has nothing in this drive")
            self._node, self.written = found["inserted"]["node-name"], _own_file(found["inserted"]["file"])
        return self._node

    def write_to(self, node: str, path: Path, *, frozen: ImageFile) -> None:
        """From now on a new file takes the writes, above the one that did; `path` has its name if that is to stay."""
        self.frozen_overlays = (frozen, *self.frozen_overlays)
        self._node, self.written = node, str(path)
        if self.overlay is None:
            path.unlink()
        else:
            self.overlay = path

    async def virtual_sizes(self, qmp: Qmp) -> list[int]:
        """Bytes of the disk, by each of its files, the topmost first, and of the zeros below a blank one."""
        node = await self.node(qmp)
        [found] = [one for one in await qmp.command("query-named-block-nodes") if one["node-name"] == node]
        image: dict[str, Any] | None = found["image"]
        sizes = []
        while image is not None:
            sizes.append(int(image["virtual-size"]))
            image = image.get("backing-image")
        return sizes


def _own_file(name: str) -> str:
    """The path of the file of a node, which QEMU names with all that is below if that is not what its header says."""
    if not name.startswith("json:"):
        return name
    node = json.loads(name.removeprefix("json:"))
    return str(node["file"]["filename"])
