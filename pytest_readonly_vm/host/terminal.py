"""Owns this terminal, lent to a byte stream: raw while it is, as it was before afterwards, however that comes about.

A person's keys go to the stream and what the stream sends goes to the screen, neither changed. Where the input is no
terminal, its lines are typed: each line's end is the Enter key. Knows nothing of machines.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from enum import Enum, auto
from types import FrameType
from typing import Any, NoReturn, Self

from pytest_readonly_vm.printable import line

_LEAVE = b"\x1d"  # Ctrl-]
_PIECE = 1 << 16
_ENDING = (signal.SIGTERM, signal.SIGHUP)
# Colours, a visible cursor, lines that wrap, no bracketed paste, and a new line: what a guest that was left in the
# middle may have changed. A PC's firmware switches the wrapping off.
_USUAL = b"\x1b[0m\x1b[?25h\x1b[?7h\x1b[?2004l\r\n"

Resized = Callable[[int, int], object]


class Ending(Enum):
    """Why the terminal is one's own again."""

    LEFT = auto()
    """The person pressed Ctrl-]."""
    CLOSED = auto()
    """The other side ended the stream."""
    INPUT_ENDED = auto()
    """The input, which is no terminal, is at its end, and nothing has come from the stream for a while since."""


class Terminal:
    """Standard input and output. A context manager: until its end, SIGTERM and SIGHUP end the process in good order.

    They raise `SystemExit` with the status that shells have for a death by that signal, so that what the process has
    begun is undone. For the main thread.
    """

    def __init__(self, input: int = 0, output: int = 1) -> None:
        """`input` and `output` are file descriptors."""
        self._input = input
        self._output = output
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, _exit) for number in _ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def is_interactive(self) -> bool:
        """Whether a person may be typing."""
        return os.isatty(self._input)

    def size(self) -> tuple[int, int]:
        """Rows and columns, 24 and 80 where nobody knows."""
        for descriptor in (self._output, self._input):
            with contextlib.suppress(OSError):
                columns, rows = os.get_terminal_size(descriptor)
                if columns and rows:
                    return rows, columns
        return 24, 80

    def say(self, sentence: str) -> None:
        """Tell the person something, in a line of its own on standard error."""
        print(f"readonly-vm: {line(sentence)}", file=sys.stderr, flush=True)

    def lend(
        self, stream: socket.socket, *, on_resize: Resized | None = None, quiet_after_input: float | None = None
    ) -> Ending:
        """Give the terminal to a stream until Ctrl-] is pressed or the stream ends. The stream is left open.

        :param on_resize: called with rows and columns when the terminal's size has changed.
        :param quiet_after_input: for input that is no terminal: seconds without news after its end at which to come
            back; None waits until the stream ends.
        """
        stream.setblocking(False)
        with self._raw(), _signals() as wake:
            return _Lending(self._input, self._output, stream, wake, self.is_interactive).run(
                lambda: on_resize and on_resize(*self.size()), quiet_after_input
            )

    @contextlib.contextmanager
    def _raw(self) -> Iterator[None]:
        """Every key as it is, none of them obeyed by this terminal."""
        if not self.is_interactive:
            yield
            return
        before = termios.tcgetattr(self._input)
        tty.setraw(self._input, termios.TCSANOW)
        try:
            yield
        finally:
            with contextlib.suppress(OSError, termios.error):  # it may have gone away
                if os.isatty(self._output):
                    os.write(self._output, _USUAL)
                termios.tcsetattr(self._input, termios.TCSADRAIN, before)


class _Lending:
    """One time that the terminal is lent."""

    def __init__(self, input: int, output: int, stream: socket.socket, wake: socket.socket, is_person: bool) -> None:
        self._input = input
        self._output = output
        self._stream = stream
        self._wake = wake
        self._is_person = is_person
        self._outgoing = bytearray()
        self._input_ended = False

    def run(self, resized: Callable[[], object], quiet: float | None) -> Ending:
        while True:
            readers: list[Any] = [self._stream, self._wake]
            if not self._input_ended and (self._is_person or not self._outgoing):
                readers.append(self._input)  # Ctrl-] is heard even if nobody takes the other keys
            patience = quiet if self._input_ended and not self._outgoing else None
            ready, writable, _ = select.select(readers, [self._stream] if self._outgoing else [], [], patience)
            if not ready and not writable:
                return Ending.INPUT_ENDED
            if self._wake in ready and signal.SIGWINCH in self._wake.recv(_PIECE):
                resized()
            if self._stream in ready and not self._show():
                return Ending.CLOSED
            stays = self._input not in ready or self._hear()
            if self._outgoing and not self._send():
                return Ending.CLOSED
            if not stays:
                return Ending.LEFT

    def _show(self) -> bool:
        """Copy what the stream has to the screen; False at its end."""
        try:
            data = self._stream.recv(_PIECE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._output, rest) :]
        return bool(data)

    def _hear(self) -> bool:
        """Take what was typed; False if that was the wish to leave."""
        try:
            data = os.read(self._input, _PIECE)
        except OSError:  # a terminal that has gone away
            return False
        if self._is_person:
            typed, leave, _ = data.partition(_LEAVE)
            self._outgoing += typed
            return bool(data) and not leave
        self._input_ended = not data
        self._outgoing += data.replace(b"\n", b"\r")
        return True

    def _send(self) -> bool:
        try:
            del self._outgoing[: self._stream.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket from which the numbers of signals that arrive can be read, that of a changed size among them."""
    wake, told = socket.socketpair()
    with wake, told:
        wake.setblocking(False)
        told.setblocking(False)
        handler = signal.signal(signal.SIGWINCH, lambda *_: None)
        descriptor = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(descriptor)
            signal.signal(signal.SIGWINCH, handler)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    for again in _ENDING:
        signal.signal(again, signal.SIG_IGN)  # what is being undone is to be undone to its end
    raise SystemExit(128 + number)
