"""Owns how a person at a terminal hears of warnings: as sentences, without the line of source that has them."""

import contextlib
import warnings
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def warnings_said(say: Callable[[str], object]) -> Iterator[None]:
    """Say each warning when it comes. For the main thread."""

    def show(message: Warning | str, *_: object) -> None:
        say(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show  # type: ignore[assignment]  # of all that it is given, the sentence will do
        yield
