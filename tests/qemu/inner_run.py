"""Owns a pytest run in processes of its own, that can be ended in any way, and the question what is left of it."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.forked import PLAIN
from tests.processes import about, parent_of, pids
from tests.qemu.waiting import GENEROUS, as_promised, eventually

_MARK = "INNER_RUN_OF_A_TEST"


class InnerRun:
    """``python -m pytest`` in `folder`, in a session of its own as if started from another terminal.

    All its processes, and theirs, carry an environment variable by which they are found. A context manager; leaving it
    kills what is left, so that a failing test leaves nothing either.
    """

    def __init__(self, folder: Path, *arguments: str, temporary: Path, settings: Mapping[str, str] = {}) -> None:
        self.folder = folder
        self._cookie = f"{_MARK}={secrets.token_hex(8)}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        name, _, value = self._cookie.partition("=")
        self._output = folder / f"output-{value}"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *PLAIN, *arguments],
                cwd=folder,
                env={**inherited, **settings, "TMPDIR": str(temporary), name: value},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A run in the background of a script ignores Ctrl-C and hands that down; a terminal's does not.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def processes(self) -> list[int]:
        """The ids of this run's processes that live (a zombie has no environment any more)."""
        return [pid for pid in pids() if self._cookie.encode() in about(pid, "environ").split(b"\0")]

    def children(self, parent: int) -> list[int]:
        """Those of them that a certain process has started."""
        return [pid for pid in self.processes() if parent_of(pid) == parent]

    def emulators(self) -> list[int]:
        """Those of them that are QEMU."""
        return [pid for pid in self.processes() if b"qemu-system" in about(pid, "cmdline").split(b"\0")[0]]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to pytest alone, if it is still there."""
        self._process.send_signal(number)

    def press_control_c(self) -> None:
        """What a terminal does: SIGINT to every process of its foreground group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)

    def reaches(self, name: str) -> Path:
        """Wait until a test has made a file of this name in the run's folder; the run must not be over before."""
        path = self.folder / name
        eventually(lambda: path.exists() or self.is_over(), f"{name} in\n{self.output}")
        assert path.exists(), f"the run was over before {name}:\n{self.output}"
        return path

    def wait(self, within: float = GENEROUS) -> int:
        """Wait for the end of pytest, so many seconds: its exit status."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run does not end:\n{self.output}") from None

    def leaves_no_process(self) -> None:
        """Fail when a process of the run lives two seconds after this call."""
        try:
            as_promised(lambda: not self.processes(), "the end of all processes")
        except AssertionError as late:
            commands = [about(pid, "cmdline").replace(b"\0", b" ")[:100] for pid in self.processes()]
            raise AssertionError(f"{late}; there are still {commands}\n{self.output}") from None
