"""Owns the way out for every file that a run writes at a place of the user's: never over a file that the run reads.

What is read is known by device and inode, so that a symbolic link, a hard link, a bind mount or another spelling of a
name is seen through. A file takes its place when it is whole: what was there is replaced, and never written through a
link.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pytest_readonly_vm.config.settings import FILES, SETTINGS, VmConfig
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.image.network_file import ChainFile, Where


def _layer(image: Where | None) -> str:
    return f"a layer of the base image {image}"


_OF_A_DISK = "the image of a disk that machines are started with"


class OutputGuard:
    """What a run must not touch, and how it writes all the rest. Several threads may use it."""

    def __init__(self) -> None:
        self._paths: dict[Path, str] = {}
        self._opened: dict[tuple[int, int], str] = {}
        self._unopened: set[Path | None] = set()

    def protect(self, config: VmConfig, layers: Sequence[ChainFile] = (), cdrom: Sequence[ChainFile] = ()) -> None:
        """Keep the files that a machine of this configuration reads, whether one has been started or not.

        :param layers: of its base image, if that has been opened.
        :param cdrom: that of its CD, likewise.
        """
        for name in FILES:
            path = getattr(config, name)
            if isinstance(path, Path) and path not in self._paths:
                self._paths[path] = SETTINGS[name].reads
                if name == "image":
                    self._unopened.add(path)
        for file in cdrom:
            self._opened.setdefault((file.fingerprint.device, file.fingerprint.inode), SETTINGS["cdrom"].reads)
        for layer in layers:
            known = layer.fingerprint.device, layer.fingerprint.inode
            what = SETTINGS["image"].reads if layer is layers[0] else _layer(layers[0].path)
            self._opened.setdefault(known, what)
        self._unopened.discard(config.image if layers else None)

    def protect_files(self, layers: Sequence[ChainFile]) -> None:
        """Keep the files of the image of a further disk."""
        for layer in layers:
            known = layer.fingerprint.device, layer.fingerprint.inode
            self._opened.setdefault(known, _OF_A_DISK)

    def why_not(self, path: Path, *, is_link: bool = False) -> str | None:
        """Why nothing may be written at a path, as the end of a sentence; None if there is no reason.

        :param is_link: whether a symbolic link is to take the place of what is there, which may be one to anything.
        """
        try:
            found = path.stat()
        except OSError:  # nothing is there, or nothing that can be reached
            return None
        if stat.S_ISDIR(found.st_mode):
            return None  # whoever takes it for the place of a file will hear of it
        if what := self._known().get(_identity(found)):
            return f"it is {what}"
        return None if is_link or stat.S_ISREG(found.st_mode) else "it is no file"

    def _known(self) -> dict[tuple[int, int], str]:
        for image in tuple(self._unopened):
            self._unopened.discard(image)
            for path in _below(image):
                self._paths.setdefault(path, _layer(image))
        known = dict(self._opened)
        for path, what in tuple(self._paths.items()):
            with contextlib.suppress(OSError):
                known.setdefault(_identity(path.stat()), what)
        return known

    def refuse(self, path: Path) -> None:
        """Before anything is written.

        :raises PermissionError: the file that is there must stay as it is; its `strerror` says why.
        """
        if why := self.why_not(path):
            raise PermissionError(errno.EPERM, f"{why}; nothing was written; choose another path", str(path))

    @contextlib.contextmanager
    def file(self, path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
        """As `atomic_file`, but never in place of what the run reads.

        :param mode: as of `os.open`; the umask counts.
        :raises PermissionError: as `refuse`.
        :raises OSError: it cannot be written.
        """
        self.refuse(path)
        with atomic_file(path, mode=mode) as file:
            yield file
            self.refuse(path)  # it may have come there meanwhile


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _below(image: Path | None) -> list[Path]:
    """What an image that no machine has been started with is backed by, as far as that can be found out."""
    from pytest_readonly_vm.image.inspection import files_below  # which loads what only machines need

    tool = shutil.which("qemu-img")
    return files_below(image, qemu_img=Path(tool)) if tool and image is not None else []
