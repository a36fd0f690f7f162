"""Owns the files of which a disk after a cut consists, and how QEMU and its tools are told of them."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.host.qemu_binary import run_qemu_img
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.qemu.chain import DiskImage, chain

_PATIENCE = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class CutDisk:
    """A disk that nobody writes."""

    layers: tuple[ImageFile, ...]
    """Above the files of its image, the topmost first; their descriptors are closed with it."""
    files: tuple[ImageFile, ...]
    """Those of its image."""
    size: int
    """Bytes."""
    blank: int | None
    """Bytes of zeros that are below, of a disk that has no image."""

    @property
    def all(self) -> tuple[ImageFile, ...]:
        return (*self.layers, *self.files)

    def node(self, known: Callable[[ImageFile], int]) -> dict[str, Any]:
        """A node of QEMU's block layer.

        :param known: the number of the descriptor set in which QEMU has a file.
        """
        images = [
            *(DiskImage(known(file), file.format, is_frozen=True) for file in self.layers),
            *(DiskImage(known(file), file.format) for file in self.files),
        ]
        found: dict[str, Any] = json.loads(chain(images, size=self.blank))
        return found

    def convert(
        self, target: int, *, format: str, qemu_img: Path, failure: str, part: tuple[int, int] | None = None
    ) -> None:
        """Write its content to an open file that is empty.

        :param part: only so many bytes from one on: that one, and how many.
        :param failure: the beginning of the message, if that fails.
        :raises VmError: it does.
        :raises OSError: qemu-img cannot be started.
        """
        node: Mapping[str, Any] = self.node(lambda file: file.descriptor)
        if part is not None:
            node = {"driver": "raw", "offset": part[0], "size": part[1], "file": node}
        source = "json:" + json.dumps(node).replace("/dev/fdset/", "/proc/self/fd/")
        inherited = [target, *(file.descriptor for file in self.all)]
        command = ("convert", "-q", "-O", format, source, f"/proc/self/fd/{target}")
        run_qemu_img(qemu_img, command, failure=failure, timeout=_PATIENCE, pass_fds=inherited)

    def close(self) -> None:
        for file in self.layers:
            os.close(file.descriptor)
