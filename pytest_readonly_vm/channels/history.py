"""Owns the history of one machine: what was done to it and what it reported, each with its time."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_KEPT = 5_000


@dataclass(slots=True)
class HistoryEntry:
    """One entry. Times are seconds: `time` since the epoch, of the beginning, `seconds` how long it took."""

    kind: str
    """``start``, ``boot``, ``layer``, ``command``, ``file``, ``wait``, ``health``, ``qmp``, ``event``, ``screen``,
    ``death``, ``state``, ``network``, ``fault``, ``recording``, ``cut``; of a network ``fault``, ``partition``,
    ``cable``, ``capture``."""
    what: str
    time: float
    seconds: float = 0.0
    is_pending: bool = False
    """Whether it goes on, so that neither `seconds` nor `outcome` says anything yet."""
    outcome: str = ""
    """How it ended, if not well: an error's first line, ``exit code 1``."""
    detail: Mapping[str, object] = field(default_factory=dict)
    """What the entry's kind has beside: for ``qmp`` the arguments and the answer, for ``event`` its data, for
    a ``state`` that goes back the time of what it goes back to."""


class History:
    """The latest entries of one machine, oldest first. Adding one costs about a microsecond; any thread may."""

    def __init__(self) -> None:
        self._entries: deque[HistoryEntry] = deque(maxlen=_KEPT)

    def note(
        self, kind: str, what: str, *, seconds: float = 0.0, detail: Mapping[str, object] = MappingProxyType({})
    ) -> HistoryEntry:
        """Add something that has just ended, or that took no time."""
        entry = HistoryEntry(kind, what, time.time() - seconds, seconds, detail=detail)
        self._entries.append(entry)
        return entry

    @contextlib.contextmanager
    def noting(self, kind: str, what: str) -> Iterator[HistoryEntry]:
        """Add what happens meanwhile, with its duration and, if it raises, the error."""
        entry = self.note(kind, what)
        entry.is_pending = True
        started = time.perf_counter()
        try:
            yield entry
        except BaseException as error:
            entry.outcome = entry.outcome or (str(error) or type(error).__name__).partition("\n")[0]
            raise
        finally:
            entry.seconds = time.perf_counter() - started
            entry.is_pending = False

    def take(self, entry: HistoryEntry) -> None:
        """Add an entry of another history."""
        self._entries.append(entry)

    def follow(self, earlier: "History") -> None:
        """Begin with what another history has, as far as there is room beside what is in this one."""
        if (room := _KEPT - len(self._entries)) > 0:
            self._entries.extendleft(reversed(earlier.entries()[-room:]))

    def entries(self) -> tuple[HistoryEntry, ...]:
        """All that is kept."""
        return tuple(self._entries)
