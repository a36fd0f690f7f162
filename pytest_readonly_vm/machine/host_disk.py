"""Owns the disks of a recording as files of this computer, for programs of it that look at them."""

import os
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.disks.cut_disk import CutDisk
from pytest_readonly_vm.disks.cut_rules import Survivors
from pytest_readonly_vm.disks.partition_table import FIRST, partition
from pytest_readonly_vm.disks.raw_disk import RawDisk
from pytest_readonly_vm.disks.write_log import WriteLog
from pytest_readonly_vm.errors import RecordingError, VmError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.host.tool import run_tool


class HostDisks:
    """A file for each partition that is looked at; it is brought from one cut to the next."""

    def __init__(self, below: CutDisk, log: WriteLog, folder: Path, qemu_img: Path) -> None:
        """:param below: the disk before the log."""
        self._below = below
        self._log = log
        self._folder = folder
        self._qemu_img = qemu_img
        self._disks: dict[int | None, RawDisk] = {}

    def check(
        self,
        state: Survivors,
        command: Sequence[str],
        placeholder: str,
        *,
        partition: int | None,
        timeout: float,
        label: str,
    ) -> CommandResult:
        """Have a program look at a state; see `Cut.check`.

        :param placeholder: what in the command the file's path takes the place of.
        """
        if isinstance(command, str) or not any(placeholder in word for word in command):
            wanted = "a list of words is wanted, one of which has the disk's path in it: cut.PATH"
            raise VmError(f"{label}: check({command!r}): {wanted}")
        try:
            disk = self._disk(state, partition, label)
            with disk.at(state):
                argv = [word.replace(placeholder, str(disk.path)) for word in command]
                began = time.monotonic()
                done = run_tool(argv, timeout=timeout)
        except OSError as error:
            raise VmError(f"{label}: {command[0]} cannot look at it: {explain(error) or error}") from None
        if done.returncode is None:
            raise VmError(f"{label}: {command[0]} took longer than {timeout:g} s")
        seconds = time.monotonic() - began
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return CommandResult(shlex.join(command), code, done.stdout.encode(), done.stderr.encode(), seconds)

    def _disk(self, state: Survivors, partition: int | None, label: str) -> RawDisk:
        disk = self._disks.get(partition)
        if disk is None or not disk.can_be(state):
            path = self._folder / ("disk.raw" if partition is None else f"partition{partition}.raw")
            path.unlink(missing_ok=True)
            part = (0, self._below.size) if partition is None else self._part(partition, label)
            path.touch()
            with path.open("r+b") as file:
                failure = f"{label}: it cannot be written to a file"
                whole = None if partition is None else part
                self._below.convert(file.fileno(), format="raw", qemu_img=self._qemu_img, failure=failure, part=whole)
            disk = self._disks[partition] = RawDisk(path, self._log, part)
        return disk

    def _part(self, number: int, label: str) -> tuple[int, int]:
        with tempfile.TemporaryFile(dir=self._folder) as file:
            tables = min(FIRST, self._below.size)
            failure = f"{label}: its partitions cannot be read"
            self._below.convert(file.fileno(), format="raw", qemu_img=self._qemu_img, failure=failure, part=(0, tables))
            found = partition(os.pread(file.fileno(), FIRST, 0), number, self._below.size)
        if found is None:
            raise RecordingError(f"{label}: it has no partition {number}")
        return found
