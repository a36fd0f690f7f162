"""Owns the layers of which the disks of a log's cuts consist, so that a cut after another costs only what is between.

All that is before a moment is taken in blocks, and eight blocks are one of the next size: what has been built is used
again by the next cut, and there are never many. On top is a layer for what is behind the last whole block, with what
survives of the writes that were not flushed.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pytest_readonly_vm.disks.cut_layer import CutLayer
from pytest_readonly_vm.disks.cut_rules import Survivors
from pytest_readonly_vm.disks.write_log import SECTOR, WriteLog
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.sparse import ALL_SEALS

_BLOCK = 4 << 20
"""Bytes of the log in the smallest block."""
_ENTRIES = 1024
"""And entries, at most."""
_FACTOR = 8
_IN_MEMORY = 8 << 20
"""Bytes: what is larger goes to a file."""
_KEPT = 24
"""Blocks that are kept for further cuts beside those of the latest."""


class CutLayers:
    """Those of one log."""

    def __init__(self, log: WriteLog, size: int, folder: Path) -> None:
        """:param size: bytes of the disk.
        :param folder: for files without a name.
        """
        self._log = log
        self._size = size
        self._folder = folder
        self._ends = self._block_ends()
        self._blocks: dict[tuple[int, int], ImageFile] = {}

    def _block_ends(self) -> list[int]:
        """Before which entry each of the smallest blocks ends."""
        ends, begin, read = [], 0, 0
        for entry in range(len(self._log)):
            read += self._log.count[entry] * SECTOR if self._log.has_data(entry) else 0
            if read >= _BLOCK or entry + 1 - begin >= _ENTRIES:
                ends.append(entry + 1)
                begin, read = entry + 1, 0
        return ends

    def build(self, state: Survivors) -> tuple[ImageFile, ...]:
        """The layers of a state, the topmost first; whoever asks closes their descriptors.

        :raises OSError: there is no room for them, or the log cannot be read.
        """
        whole = 0
        while whole < len(self._ends) and self._ends[whole] <= state.sure:
            whole += 1
        needed = list(_parts(whole))
        for part in needed:
            if part in self._blocks:
                self._blocks[part] = self._blocks.pop(part)  # as the latest
            else:
                first, last = _range(*part)
                begin = self._ends[first - 1] if first else 0
                self._blocks[part] = self._layer((entry, None) for entry in range(begin, self._ends[last]))
        while len(self._blocks) > _KEPT + len(needed):
            os.close(self._blocks.pop(next(iter(self._blocks))).descriptor)
        begin = self._ends[whole - 1] if whole else 0
        entries = [*((entry, None) for entry in range(begin, state.sure)), *state.kept(self._log)]
        top = self._layer(entries)
        return (top, *(_copy(self._blocks[part]) for part in reversed(needed)))

    def _layer(self, entries: "Iterable[tuple[int, int | None]]") -> ImageFile:
        wanted = [(entry, sectors) for entry, sectors in entries if self._log.is_write(entry)]
        data = sum(self._log.count[entry] for entry, _ in wanted if self._log.has_data(entry)) * SECTOR
        with contextlib.ExitStack() as opened:
            if is_small := data <= _IN_MEMORY:
                descriptor = os.memfd_create("cut", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            else:
                file = opened.enter_context(tempfile.TemporaryFile(dir=self._folder))
                descriptor = os.dup(file.fileno())
            opened.callback(os.close, descriptor)
            layer = CutLayer(descriptor, self._size)
            for entry, sectors in wanted:
                layer.apply(self._log, entry, sectors)
            layer.finish()
            if is_small:
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, ALL_SEALS)
            # QEMU gets a descriptor that cannot write; one of a memfd that can is refused where it is to read only.
            found = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        return ImageFile(Path("cut.qcow2"), "qcow2", found, Fingerprint.of(os.fstat(found)))

    def close(self) -> None:
        for block in self._blocks.values():
            os.close(block.descriptor)
        self._blocks.clear()


def _parts(whole: int) -> "Iterable[tuple[int, int]]":
    """Of which blocks that many of the smallest consist: the size of each, and its number among those of this size."""
    level, sizes = 0, [1]
    while sizes[-1] * _FACTOR <= whole:
        sizes.append(sizes[-1] * _FACTOR)
    done = 0
    for level in reversed(range(len(sizes))):
        while done + sizes[level] <= whole:
            yield level, done // sizes[level]
            done += sizes[level]


def _range(level: int, number: int) -> tuple[int, int]:
    """The first and the last of the smallest blocks in a block."""
    size = _FACTOR**level
    return number * size, (number + 1) * size - 1


def _copy(file: ImageFile) -> ImageFile:
    return replace(file, descriptor=os.dup(file.descriptor))
