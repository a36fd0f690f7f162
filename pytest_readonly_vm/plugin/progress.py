"""Owns the line that shows how far a long transfer is, when somebody is watching a terminal."""

import time

import pytest

from pytest_readonly_vm.printable import line

_UNSEEN = 1.0
"""Seconds before a transfer is shown: most end earlier."""
_PAUSE = 0.2


class Progress:
    """Called with what is transferred, how many bytes have gone, and how many there are if that is known."""

    def __init__(self, config: pytest.Config) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._writer = config.get_terminal_writer() if reporter is not None and reporter.isatty else None
        self._what = ""
        self._since = self._shown = 0.0

    def __call__(self, what: str, done: int, size: int | None) -> None:
        if self._writer is None:
            return
        now = time.monotonic()
        if what != self._what:
            self._what, self._since, self._shown = what, now, 0.0
        is_over = done == size
        if now - self._since < _UNSEEN or (now - self._shown < _PAUSE and not is_over):
            return
        self._shown = now
        of = f" of {size >> 20}" if size else ""
        text = "" if is_over else f"{line(what)}: {done >> 20}{of} MiB"
        # The writer has pytest's own copy of the terminal, which is not captured.
        self._writer.write(f"\r{text[: self._writer.fullwidth - 1]}\x1b[K", flush=True)
