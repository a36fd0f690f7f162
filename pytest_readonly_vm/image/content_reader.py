"""Owns the reading of a guest's disk from outside: a few bytes at a place, whatever format the files below are in."""

import json
import os
from pathlib import Path

from pytest_readonly_vm.errors import ImageError, VmError
from pytest_readonly_vm.host.qemu_binary import run_qemu_img
from pytest_readonly_vm.image.base import BaseImage
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.network_file import Line, NetworkFile, socket_node

_SECTOR = 512
_BLOCK = 1 << 20
"""Bytes that are read at once by qemu-img, whose start takes longer."""
_END = 1 << 62
"""No disk reaches as far, whatever its tables say."""
_BACKED = ("qcow2", "qed", "vmdk")


class ContentReader:
    """Reads what a guest would read of a base image: directly, or by qemu-img if its format needs that, 15 ms a MiB."""

    def __init__(self, base: BaseImage, *, qemu_img: Path) -> None:
        self._base = base
        self._qemu_img = qemu_img
        self._is_plain = base.format == "raw"
        self._blocks: dict[int, bytes] = {}

    def read(self, offset: int, length: int) -> bytes:
        """At most so many bytes of the disk, both a multiple of 512; fewer, or none, beyond its end.

        :raises ImageError: it cannot be read.
        """
        if offset + length > _END:
            return b""
        if self._is_plain:
            return self._base.chain[0].read(offset, length)
        first = offset - offset % _BLOCK
        content = b"".join(map(self._block, range(first, offset + length, _BLOCK)))
        return content[offset - first :][:length]

    def _block(self, offset: int) -> bytes:
        if offset not in self._blocks:
            self._blocks[offset] = self._window(offset, _BLOCK)
        return self._blocks[offset]

    def _window(self, offset: int, length: int) -> bytes:
        window = os.memfd_create("disk-window", os.MFD_CLOEXEC)
        lines: list[Line] = []
        try:
            node = self._node(lines)
            # Its count is of what it has come to from the disk's beginning, with what it has skipped.
            place = (f"bs={_SECTOR}", f"skip={offset // _SECTOR}", f"count={(offset + length) // _SECTOR}")
            run_qemu_img(
                self._qemu_img,
                ("dd", "-O", "raw", *place, f"if=json:{json.dumps(node)}", f"of=/proc/self/fd/{window}"),
                failure=f"{self._base.path} cannot be read",
                pass_fds=(
                    window,
                    *(file.descriptor for file in self._base.chain if isinstance(file, ImageFile)),
                    *(line.socket.fileno() for line in lines),
                ),
            )
            return os.pread(window, length, 0)
        except VmError as error:
            raise ImageError(str(error)) from None
        finally:
            os.close(window)
            for line in lines:
                line.socket.close()
                line.close()

    def _node(self, lines: list[Line]) -> dict[str, object]:
        """The chain for QEMU's block layer; `lines` gets those to files on the network, to be closed."""
        node: dict[str, object] | None = None
        for one in reversed(self._base.chain):
            if isinstance(one, NetworkFile):
                lines.append(one.reader.lend(lambda trouble: None))
                file = socket_node(lines[-1].socket.fileno())
            else:
                file = {"driver": "file", "filename": f"/proc/self/fd/{one.descriptor}", "locking": "off"}
            node = {"driver": one.format, "file": file, **({"backing": node} if one.format in _BACKED else {})}
        assert node is not None
        return node
