"""Owns what is shown of something that takes long: a line that comes and goes, when somebody is watching a terminal.

It is below what pytest has written so far, ``test_a.py ..`` perhaps, which goes on where it was once the line is gone.
Elsewhere, as in the log of a CI job, lines stay; so there are few, and none of what does not take long.
"""

import contextlib
import os
import select
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterator

import pytest

from pytest_readonly_vm.printable import line

_UNSEEN = 1.0
"""Seconds before a transfer is shown: most end earlier."""
_PAUSE = 0.2
_TRANSFER = "transfer"

_FIRST = 5.0
"""Seconds after which there is the first line of a boot or layer that stays; the next come each after twice as long."""
_LAST = 1.0
"""Seconds for which its end waits for such a line, which may be on its way."""

# Of ECMA-48 and the VT100. The cursor goes down as `index` does, since that scrolls where a line feed would but keeps
# the column, and comes back up, so that the place that is remembered stays the same when the line is written below.
_INDEX, _UP, _REMEMBER, _GO_BACK, _ERASE = "\x1bD", "\x1b[A", "\x1b7", "\x1b8", "\r\x1b[K"


class Progress:
    """Shows one line, of what began first. Any thread may call.

    The line is written by a descriptor of its own, as that of the streams is captured while a test runs.
    """

    def __init__(self, config: pytest.Config, tell: Callable[[str], None]) -> None:
        """`tell` writes a line that stays, on any thread but the loop's, for which others would have to wait."""
        self._config = config
        self._tell = tell
        self._terminal: int | None = None
        self._encoding = "ascii"
        self._lock = threading.RLock()
        self._others = threading.RLock()
        self._texts: dict[object, str] = {}
        """What is to be shown of each that is under way, the oldest first."""
        self._is_shown = False
        self._hidden = 0
        self._is_debugging = False
        self._transfer = ("", 0.0, 0.0)
        """What is transferred, since when, and when that was shown last."""

    # As a plugin.

    def pytest_sessionstart(self) -> None:
        """An xdist worker has no terminal. If it is a test that has opened the door, this comes in its midst."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not reporter.isatty or os.environ.get("TERM", "dumb") == "dumb":
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        not_captured = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
        with not_captured, contextlib.suppress(OSError, ValueError):
            self._terminal = os.dup(sys.stdout.fileno())
            self._encoding = sys.stdout.encoding
            self._config.add_cleanup(self._close)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self) -> Generator[None, object, object]:
        with self.hidden():
            self._drop(_TRANSFER)  # one that has failed
            return (yield)

    def pytest_enter_pdb(self) -> None:
        with self._lock:
            self._is_debugging = True
            self._erase()

    def pytest_leave_pdb(self) -> None:
        self._is_debugging = False

    def _close(self) -> None:
        with self._lock:
            if self._terminal is not None:
                self._erase()
                os.close(self._terminal)
                self._terminal = None

    # For what takes long.

    def transfer(self, what: str, done: int, size: int | None) -> None:
        """Called with what is transferred, how many bytes have gone, and how many there are if that is known."""
        if self._terminal is None:
            return
        now = time.monotonic()
        known, since, shown = self._transfer
        if what != known:
            since, shown = now, 0.0
        if done == size:
            self._drop(_TRANSFER)
        elif now - since >= _UNSEEN and now - shown >= _PAUSE:
            self._show(_TRANSFER, f"{what}: {done >> 20}{f' of {size >> 20}' if size else ''} MiB")
            shown = now
        self._transfer = (what, since, shown)

    @contextlib.contextmanager
    def watch(self, users_code: bool) -> Iterator[Callable[[str], None] | None]:
        """A `Watch`. What code of the user's prints would come to the line, if it is neither captured nor held back."""
        if self._terminal is None:
            with self._lines() as show:
                yield show
            return
        if users_code and self._prints():
            yield None
            return
        key = object()
        with self._lock:
            self._texts[key] = ""
        try:
            yield lambda text: self._show(key, text, only_if_known=True)
        finally:
            self._drop(key)

    @contextlib.contextmanager
    def _lines(self) -> Iterator[Callable[[str], None] | None]:
        if self._config.option.verbose < 0:
            yield None
            return
        from concurrent.futures import Future, ThreadPoolExecutor, wait  # which whoever boots has loaded

        teller = ThreadPoolExecutor(1, thread_name_prefix="readonly-vm progress")
        told: list[Future[None]] = []
        began = time.monotonic()

        def show(text: str) -> None:
            if time.monotonic() - began >= _FIRST * 2 ** len(told) and not self._is_debugging:
                with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                    told.append(teller.submit(self._tell, text))

        try:
            yield show
        finally:
            wait(told, _LAST)
            teller.shutdown(wait=False, cancel_futures=True)

    def _prints(self) -> bool:
        option = self._config.option
        is_log_live = self._config.getini("log_cli") or option.log_cli_level is not None
        return option.capture in ("no", "tee-sys") or bool(is_log_live)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """A context in which others write to the terminal, one thread at a time, as pytest does not expect two."""
        with self._others:
            with self._lock:
                self._hidden += 1
                self._erase()
            try:
                yield
            finally:
                with self._lock:
                    self._hidden -= 1

    # The line.

    def _show(self, key: object, text: str, *, only_if_known: bool = False) -> None:
        with self._lock:
            if only_if_known and key not in self._texts:
                return  # it has ended meanwhile
            self._texts[key] = text
            self._draw()

    def _drop(self, key: object) -> None:
        with self._lock:
            if self._texts.pop(key, "") and not any(self._texts.values()):
                self._erase()

    def _draw(self) -> None:
        if self._terminal is None or self._hidden or self._is_debugging:
            return
        if not select.select([], [self._terminal], [], 0)[1]:
            return  # somebody has stopped it, by Ctrl-S, and this may be the thread that serves all machines
        first, *others = filter(None, self._texts.values())
        more = f" (and {len(others)} more)" if others else ""
        try:
            columns = (os.get_terminal_size(self._terminal).columns or 80) - 1
        except OSError:
            return  # it was hung up
        text = _cut(_cut(line(first), max(columns - len(more), 0)) + more, columns)
        self._write((_ERASE if self._is_shown else f"{_INDEX}{_UP}{_REMEMBER}\r\n") + text)
        self._is_shown = True

    def _erase(self) -> None:
        if self._is_shown:
            self._is_shown = False
            self._write(_ERASE + _GO_BACK)

    def _write(self, text: str) -> None:
        if self._terminal is not None:
            with contextlib.suppress(OSError):  # it was hung up
                os.write(self._terminal, text.encode(self._encoding, errors="replace"))


def _cut(text: str, columns: int) -> str:
    """As much of a text as has room in so many columns; a tab is one, wherever the terminal has its stops."""
    text = text.replace("\t", " ")
    for position, character in enumerate(text):
        columns -= (
            0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "FW" else 1
        )
        if columns < 0:
            return text[:position]
    return text
