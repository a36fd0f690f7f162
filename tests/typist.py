"""Somebody at a terminal: a real pseudo-terminal with a process on it, keys for that and what it shows."""

import fcntl
import os
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from tests.qemu.waiting import GENEROUS


class Typist:
    """A process whose controlling terminal is a pseudo-terminal of ours. A context manager: it is killed at the end."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **others: Any) -> None:
        """`others` are for `subprocess.Popen`: an `stdin` or `stderr` that is no terminal."""
        self.keyboard, self.terminal = os.openpty()
        self.resize(24, 80)
        self.seen = ""
        """All that was shown so far."""
        streams = {"stdin": self.terminal, "stdout": self.terminal, "stderr": self.terminal} | others
        self.process = subprocess.Popen(
            argv,
            start_new_session=True,
            preexec_fn=self._sit_down,
            pass_fds=(self.terminal,),
            env=env,
            **streams,
        )

    def _sit_down(self) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which whoever started the tests may have had ignored

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        self.hang_up()
        os.close(self.terminal)

    def hang_up(self) -> None:
        """Take the keyboard and the screen away."""
        if self.keyboard != -1:
            os.close(self.keyboard)
            self.keyboard = -1

    def type(self, keys: str) -> None:
        os.write(self.keyboard, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.terminal, (rows, columns))

    def wait_for(self, pattern: str, timeout: float = 2 * GENEROUS) -> re.Match[str]:
        """Read on until a regular expression is found in what came after the last one that was."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self._unread)):
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{pattern!r} was not shown, but: {self.seen!r}")
        self._at += match.end()
        return match

    _at = 0

    @property
    def _unread(self) -> str:
        return self.seen[self._at :]

    def _read(self, timeout: float) -> bool:
        if timeout <= 0 or not select.select([self.keyboard], [], [], timeout)[0]:
            return False
        self.seen += os.read(self.keyboard, 1 << 16).decode(errors="replace")
        return True

    def wait(self, timeout: float = 2 * GENEROUS) -> int:
        """Read all until the process ends, and return its status."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not end, and showed: {self.seen!r}")
            if self.keyboard != -1:
                self._read(0.02)
        while self.keyboard != -1 and self._read(0.01):
            pass
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def mode(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self.terminal)

    def is_raw(self) -> bool:
        """Whether it hands on every key as it is."""
        return not self.mode[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
