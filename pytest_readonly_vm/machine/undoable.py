"""Owns what was done to a network or a disk and is undone: by a context, by hand, or with the test."""

import abc
import time
from types import TracebackType
from typing import Self

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.errors import VmError


class Undoable(abc.ABC):
    """Something that is on from the call that makes it. A context manager, whose end is that of it.

    What is still on when the test is over during which it began, is ended then.
    """

    def __init__(self, entry: HistoryEntry) -> None:
        """`entry` is that of its history, which is pending until the end."""
        self._entry = entry
        self._what = entry.what
        self._is_on = True
        entry.is_pending = True

    @property
    def label(self) -> str:
        """What it is, for people."""
        return self._what

    @property
    def is_on(self) -> bool:
        """Whether it has not been ended."""
        return self._is_on

    def end(self) -> None:
        """End it; a second call does nothing.

        :raises VmError: it has come to nothing, or cannot be ended.
        """
        if self._is_on:
            try:
                self._undo()
                self._check()
            except BaseException as error:
                self._entry.outcome = (str(error) or type(error).__name__).partition("\n")[0]
                raise

    def abandon(self) -> BaseException | None:
        """End it after an error of the test's, which is what counts; the error of doing so, if there is one."""
        if self._is_on:
            try:
                self._undo()
            except BaseException as error:
                self._entry.outcome = (str(error) or type(error).__name__).partition("\n")[0]
                return error
        return None

    @abc.abstractmethod
    def look(self) -> None:
        """See what it has come to so far, for people.

        :raises VmError: that cannot be seen.
        """

    def _undo(self) -> None:
        self._is_on = False
        try:
            self._off()
        finally:
            self._entry.seconds = time.time() - self._entry.time
            self._entry.is_pending = False
            self._entry.what = str(self)

    @abc.abstractmethod
    def _off(self) -> None:
        """Have it be off."""

    @abc.abstractmethod
    def _check(self) -> None:
        """See, when it is off and the test has not failed, whether it has done what it was for."""

    def __str__(self) -> str:
        return self._what

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.end()
        elif (other := self.abandon()) is not None and not isinstance(other, VmError):
            error.add_note(f"and at the end of {self.label}: {type(other).__name__}: {other}")
