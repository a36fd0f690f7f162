"""Owns `Samples`: what one thing took each time it was measured. Pure."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Samples:
    """Durations in seconds, or bytes, in the order in which they were measured."""

    values: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values)

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(tuple(mine + its for mine, its in zip(self, other, strict=True)))

    def __sub__(self, other: "Samples") -> "Samples":
        """Differences of what was measured in the same round, so that what slows a whole round down cancels out."""
        return Samples(tuple(mine - its for mine, its in zip(self, other, strict=True)))

    @property
    def minimum(self) -> float:
        return min(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def maximum(self) -> float:
        return max(self.values)


def total(parts: Iterable[Samples]) -> Samples:
    """The sum of the parts, round by round."""
    return Samples(tuple(map(sum, zip(*parts, strict=True))))
