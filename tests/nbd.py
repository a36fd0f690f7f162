"""Owns real NBD servers on sockets of their own: nbdkit, and one that says what a test has it say."""

import contextlib
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.qemu.waiting import eventually


@dataclass
class Nbdkit:
    """nbdkit with one file, on a Unix socket, or where the options say. It takes writes, unless they forbid it."""

    socket: Path | None
    file: Path
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Serve, from when this returns."""
        where = () if self.socket is None else ("-U", str(self.socket))
        folder = self.file.parent if self.socket is None else self.socket.parent
        mark = folder / f"nbdkit-{secrets.token_hex(4)}.pid"
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)
        # With several threads 1.32 fails an assertion where a client hangs up that waits for several answers.
        command = ["nbdkit", *where, "--foreground", "--threads=1", f"--pidfile={mark}", *self.options]
        command += ["file", str(self.file), *self.arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually(mark.exists, "nbdkit listens")
        mark.unlink()

    def stall(self) -> None:
        """From now on nothing is answered, and the connections stay."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def vanish(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def _send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> "Nbdkit":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()


@contextlib.contextmanager
def saying(path: Path, words: bytes) -> Iterator[str]:
    """A server that says this to everybody, and then nothing more; its URL."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as opened:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    opened.enter_context(connection)
                    connection.sendall(words)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"nbd+unix:///?socket={path}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
