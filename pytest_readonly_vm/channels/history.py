"""Owns the chronicle of one machine: what was done to it and what it reported, each with its time."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_KEPT = 5_000


@dataclass(slots=True)
class Happening:
    """One entry. Times are seconds: `time` since the epoch, of the beginning, `seconds` how long it took."""

    kind: str
    """``start``, ``boot``, ``command``, ``file``, ``wait``, ``qmp``, ``event``, ``screen``, ``death``, ``moment``."""
    what: str
    time: float
    seconds: float = 0.0
    outcome: str = ""
    """How it ended, if not well: an error's first line, ``exit code 1``."""
    detail: Mapping[str, object] = field(default_factory=dict)
    """What the entry's kind has beside: for ``qmp`` the arguments and the answer, for ``event`` its data, for
    a ``moment`` that goes back the time of what it goes back to."""


class Chronicle:
    """The latest happenings of one machine, oldest first. Adding one costs about a microsecond; any thread may."""

    def __init__(self) -> None:
        self._happenings: deque[Happening] = deque(maxlen=_KEPT)

    def note(
        self, kind: str, what: str, *, seconds: float = 0.0, detail: Mapping[str, object] = MappingProxyType({})
    ) -> Happening:
        """Add something that has just ended, or that took no time."""
        happening = Happening(kind, what, time.time() - seconds, seconds, detail=detail)
        self._happenings.append(happening)
        return happening

    @contextlib.contextmanager
    def noting(self, kind: str, what: str) -> Iterator[Happening]:
        """Add what happens meanwhile, with its duration and, if it raises, the error."""
        happening = self.note(kind, what)
        started = time.perf_counter()
        try:
            yield happening
        except BaseException as error:
            happening.outcome = happening.outcome or (str(error) or type(error).__name__).partition("\n")[0]
            raise
        finally:
            happening.seconds = time.perf_counter() - started

    def follow(self, earlier: "Chronicle") -> None:
        """Begin with what another chronicle has, as far as there is room beside what is in this one."""
        if (room := _KEPT - len(self._happenings)) > 0:
            self._happenings.extendleft(reversed(earlier.entries()[-room:]))

    def entries(self) -> tuple[Happening, ...]:
        """All that is kept."""
        return tuple(self._happenings)
