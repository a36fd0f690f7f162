"""Owns a worker's own line to the controller, beside that of xdist: questions and answers, and pieces of files.

It is there in runs that have workers on other hosts. What is sent on it arrives before a report that is sent later.
"""

import queue
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

LINE = "readonly_vm_line"
HOST = "readonly_vm_host"
HERE = "readonly_vm_here"
"""Keys of a worker's input: the channel, what its host is called, and the controller's folder if that is elsewhere."""

_PATIENCE = 600.0
"""Seconds for the controller to answer, which may have to write what came before to a slow disk."""

_lines = pytest.StashKey["FarLine"]()


class LineIsDown(Exception):
    """The controller has gone, or does not answer."""


class FarLine:
    """The worker's end. Any thread may use it, one at a time: see `ask`."""

    def __init__(self, channel: Any, host: str, here: str | None) -> None:
        self.host = host
        """What this host is called in the run."""
        self.here = here
        """The folder in which pytest was started, on the controller; None if this is the controller's host."""
        self.on_end: list[Callable[[], object]] = []
        """Called, on execnet's thread, when the connection has ended."""
        self._channel = channel
        self._answers: queue.Queue[Any] = queue.Queue()
        self._is_down = False
        self._number = 0
        self._turn: queue.Queue[None] = queue.Queue()
        self._turn.put(None)
        channel.setcallback(self._hear, endmarker=None)

    @classmethod
    def of(cls, config: pytest.Config) -> "FarLine | None":
        """That of a worker in a run with other hosts; None in all other processes."""
        given = getattr(config, "workerinput", None)
        if given is None or LINE not in given:
            return None
        if _lines not in config.stash:
            config.stash[_lines] = cls(given[LINE], given[HOST], given[HERE])
        return config.stash[_lines]

    def _hear(self, answer: Any) -> None:
        if answer is None:
            self._is_down = True
            self._answers.put(None)
            for do in self.on_end:
                with suppress(Exception):
                    do()
        else:
            self._answers.put(answer)

    def ask(self, *question: Any) -> Any:
        """Send a question and wait for the answer.

        :raises LineIsDown: there is none.
        """
        self._turn.get()
        try:
            return self._asked(question)
        finally:
            self._turn.put(None)

    def ask_after(self, pieces: Any, *question: Any) -> Any:
        """The same, after pieces of bytes that nothing else may come between."""
        self._turn.get()
        try:
            for piece in pieces:
                self._send(piece)
            return self._asked(question)
        finally:
            self._turn.put(None)

    def _asked(self, question: Any) -> Any:
        self._number += 1
        self._send((self._number, *question))
        while not self._is_down:
            try:
                answer = self._answers.get(timeout=_PATIENCE)
            except queue.Empty:
                raise LineIsDown("the controller of the run does not answer") from None
            if answer is not None and answer[0] == self._number:  # a timeout of a test may have ended others' waiting
                return answer[1]
        raise LineIsDown("the connection to the controller of the run has ended")

    def _send(self, message: Any) -> None:
        try:
            self._channel.send(message)
        except OSError:
            raise LineIsDown("the connection to the controller of the run has ended") from None


def is_elsewhere(config: pytest.Config) -> bool:
    """Whether this process is a worker on another host than the controller's."""
    return getattr(config, "workerinput", {}).get(HERE) is not None
