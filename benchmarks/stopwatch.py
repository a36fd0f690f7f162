"""Owns the collecting of samples: what is timed in the middle of a run, under a label, round after round."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.samples import Samples


class Stopwatch:
    """Durations by label. What happens several times within one round adds up."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` says how much of what is measured has passed, in seconds: by default time on the wall."""
        self._clock = clock
        self._rounds: list[dict[str, float]] = []

    def next_round(self) -> None:
        self._rounds.append({})

    def forget_round(self) -> None:
        """Drop the latest round: the first one warms caches up."""
        self._rounds.pop()

    def add(self, label: str, seconds: float) -> None:
        now = self._rounds[-1]
        now[label] = now.get(label, 0.0) + seconds

    @contextmanager
    def timing(self, label: str) -> Iterator[None]:
        started = self._clock()
        try:
            yield
        finally:
            self.add(label, self._clock() - started)

    def labels(self) -> tuple[str, ...]:
        """In the order in which they came up."""
        return tuple(dict.fromkeys(label for now in self._rounds for label in now))

    def samples(self, label: str) -> Samples:
        """One for each round; nothing counts as 0."""
        return Samples(tuple(now.get(label, 0.0) for now in self._rounds))
