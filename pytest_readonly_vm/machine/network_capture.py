"""Owns the capture of a private network into a file of the user's."""

import contextlib
import errno
import os
from pathlib import Path

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.machine.undoable import Undoable
from pytest_readonly_vm.network.switch_process import Ask
from pytest_readonly_vm.printable import count


class Capture(Undoable):
    """A capture from the call that makes it until its context ends, `end` is called, or the test is over.

    Attributes: `path`, the file, which is there when it has ended; `frames`, how many are in it, likewise.
    """

    def __init__(
        self,
        path: Path,
        number: int,
        *,
        network: str,
        ask: Ask,
        loop: LoopThread,
        output_guard: OutputGuard,
        entry: HistoryEntry,
    ) -> None:
        """Have it begin.

        :raises NetworkError: the file cannot be written, or is one that machines read.
        :raises SwitchDied: there is no switch any more.
        """
        super().__init__(entry)
        self.path = path
        self.frames = 0
        self._number = number
        self._network = network
        self._ask = ask
        self._loop = loop
        self._file = contextlib.ExitStack()
        try:
            try:
                if path.is_dir():  # which would be heard of at the end
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                file = self._file.enter_context(output_guard.file(path))
            except OSError as error:
                raise self._unwritten(error) from None
            loop.run(ask("capture", file.fileno(), number=number))
        except BaseException as error:
            self._file.__exit__(type(error), error, error.__traceback__)
            self._discard(error)
            raise

    def _unwritten(self, error: OSError) -> NetworkError:
        return NetworkError(f"{self._network}: {self.path} cannot be written: {error.strerror or error}")

    def _discard(self, error: BaseException) -> None:
        self._is_on = self._entry.is_pending = False
        self._entry.outcome = str(error).partition("\n")[0]

    def _off(self) -> None:
        try:
            with self._file:
                self.frames = self._loop.run(self._ask("end_capture", number=self._number))
        except OSError as error:
            raise self._unwritten(error) from None

    def look(self) -> None:
        pass

    def _check(self) -> None:
        pass

    def __str__(self) -> str:
        return f"{self.label}: {count(self.frames, 'frame')}"
