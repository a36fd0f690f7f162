"""Owns the function of a test's that says which frames a fault is for, and the thread on which it runs."""

import contextlib
import queue
import threading
from collections.abc import Callable

from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.host.loop import OUR_THREADS
from pytest_readonly_vm.network.frame import Frame

_PATIENCE = 5.0

Match = Callable[[Frame], object]
"""Whether a fault is for a frame, by whether what it returns is true."""


class FrameMatch:
    """Asks the function of one frame after the other, in the order in which they came.

    It is not on the loop, as it may compute, or ask a guest; and the network does not wait for it: only the frame does.
    """

    def __init__(self, function: Match, answer: Callable[[int, bool], object], *, label: str) -> None:
        """`answer` is told, on the thread, of which question and what."""
        self._function = function
        self._answer = answer
        self._label = label
        self._questions: queue.SimpleQueue[tuple[int, Frame] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._asked: Frame | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, name=f"{OUR_THREADS} {label}", daemon=True)
        self._thread.start()

    def ask(self, number: int, frame: Frame) -> None:
        """Have a question answered."""
        self._questions.put((number, frame))

    def _serve(self) -> None:
        while (question := self._questions.get()) is not None:
            if self._is_over:  # what waits for an answer has had it by the end of its fault
                continue
            number, frame = question
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._answer(number, self._error is None and self._is_for(frame))

    def _is_for(self, frame: Frame) -> bool:
        self._asked = frame
        try:
            return bool(self._function(frame))
        except BaseException as error:  # as pytest.fail raises, for one
            error.add_note(f"{self._label}: raised for the frame {frame}")
            self._error = error
            return False
        finally:
            self._asked = None

    def end(self) -> BaseException | None:
        """Ask no more. What the function has raised, if it has; or that it has not returned."""
        self._is_over = True
        self._questions.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_PATIENCE)
            if self._thread.is_alive() and (frame := self._asked) is not None:
                return NetworkError(
                    f"{self._label}: its function has not returned within {_PATIENCE:g} s, for the frame {frame}"
                )
        return self._error
