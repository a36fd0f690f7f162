"""Owns clean-up that gives everything back, whatever fails on the way. Knows nothing of the things."""

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self


class Cleanup:
    """Steps of which each is taken, whatever became of those before; in the end the first error is raised.

    What else failed is in its notes. An interrupt or a cancellation comes before any error.
    """

    def __init__(self) -> None:
        self._errors: list[BaseException] = []

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """What is done in here may fail."""
        try:
            yield
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self._errors.insert(0, error)
        if not self._errors:
            return
        first, *others = sorted(self._errors, key=lambda found: isinstance(found, Exception))
        for other in others:
            first.add_note(f"and then, in the clean-up, {type(other).__name__}: {other}")
        raise first
