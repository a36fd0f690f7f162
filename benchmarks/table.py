"""Owns `Table`: samples with names, as Markdown that is readable in a terminal too. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.samples import Samples

_PER_ONE = {"s": 1.0, "ms": 1e3, "us": 1e6, "MB": 1e-6, "frames/s": 1.0}
"""How many of a unit there are in a second, in a byte, or in what the unit is of."""


@dataclass(slots=True)
class Table:
    """What `str` gives can be pasted into the README.

    `unit` is ``s``, ``ms``, ``us``; ``MB`` for bytes; ``frames/s``, which is given as it is.
    """

    title: str
    unit: str
    rows: list[tuple[str, Samples]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, label: str, samples: Samples) -> None:
        self.rows.append((label, samples))

    def note_minima(self, label: str, with_it: Samples, without: Samples) -> None:
        """Other work on the computer only ever adds time, so of noisy samples the minima are the ones to compare."""
        difference = _PER_ONE[self.unit] * (with_it.minimum - without.minimum)
        self.notes.append(f"Difference of the minima, {label}: {_number(difference)} {self.unit}.")

    def __str__(self) -> str:
        scale = _PER_ONE[self.unit]
        heads = ("", "min", "median", "max", "n")
        lines = [
            (label, *(_number(scale * value) for value in (row.minimum, row.median, row.maximum)), str(len(row)))
            for label, row in self.rows
        ]
        widths = [max(2, *map(len, column)) for column in zip(heads, *lines, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        body = [_line(cells, widths) for cells in (heads, rule, *lines)]
        notes = [line for note in self.notes for line in ("", note)]
        return "\n".join([f"**{self.title}** ({self.unit})", "", *body, *notes])


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return f"| {' | '.join(padded)} |"
