"""Owns the lines by which one QEMU reads files on the network, and who is told when there is trouble with one."""

from contextlib import ExitStack

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.image.network_file import NetworkFile, Trouble

_TELLING = 1.0
"""Seconds."""


class BaseLines:
    """Those of one QEMU. The first trouble ends every wait for its guest, as whatever it does then is of no use."""

    def __init__(self, loop: LoopThread, name: str) -> None:
        self._loop = loop
        self._name = name
        self._lines = ExitStack()
        self._files: list[NetworkFile] = []
        self._told: tuple[NetworkFile, Trouble] | None = None
        self._qemu: tuple[Process, Qmp] | None = None

    def lend(self, file: NetworkFile, sockets: ExitStack) -> int:
        """The descriptor of a new line; QEMU's end of it is closed with `sockets`, ours by `close`."""
        line = file.reader.lend(lambda trouble: self._hear(file, trouble))
        self._lines.callback(line.close)
        self._files.append(file)
        return sockets.enter_context(line.socket).fileno()

    def watch(self, process: Process, qmp: Qmp) -> None:
        """From now on the liveness of this QEMU's guest is told."""
        if self._files:
            process.witnesses.append(self._testify)
            self._loop.loop.call_soon_threadsafe(self._begin, process, qmp)

    def _begin(self, process: Process, qmp: Qmp) -> None:
        self._qemu = process, qmp
        if self._told is not None:
            self._tell(*self._told)

    def _hear(self, file: NetworkFile, trouble: Trouble) -> None:
        self._told = self._told or (file, trouble)
        if self._qemu is not None:
            self._tell(*self._told)

    def _tell(self, file: NetworkFile, trouble: Trouble) -> None:
        assert self._qemu is not None
        process, qmp = self._qemu
        what = f"{self._name}: the base image {file.path}"
        qmp.history.note("death", str(trouble.error(what)))
        qmp.liveness.report_end(lambda: process.with_evidence(trouble.error(what)))

    def waiting(self) -> list[str]:
        """Sentences about servers that are waited for at this moment, for long enough to tell."""
        return [
            f"the base image {file.path} is waited for: its server has not answered for {seconds:.1f} s"
            for file in self._files
            if (seconds := file.reader.waiting) >= _TELLING
        ]

    def _testify(self, error: BaseException) -> str:
        return "; ".join(self.waiting())

    def error(self) -> VmError | None:
        """What there was with a file, if there was something."""
        if self._told is None:
            return None
        file, trouble = self._told
        return trouble.error(f"{self._name}: the base image {file.path}")

    def close(self) -> None:
        """End all lines; from any thread."""
        self._lines.close()
