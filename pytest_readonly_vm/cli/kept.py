"""Owns how the commands show what is kept between runs: a table, sizes, ages, and names by their beginnings."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.printable import count

NAME_SHOWN = 12
"""Digits of the name of an entry, which are enough to tell it from others."""


class Kept(Protocol):
    """An entry of what is kept."""

    @property
    def size(self) -> int: ...


K = TypeVar("K")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, of which the first is the head; nothing if there is no other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if len(rows) > 1 else ():
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def named(beginnings: Sequence[str], entries: Sequence[K], name: Callable[[K], str], *, what: str) -> list[K]:
    """The entries that are meant, each once.

    :param what: what entries are, and what their names are: ``template key``.
    :raises ConfigurationError: a beginning fits none, or several.
    """
    noun, _, called = what.partition(" ")
    chosen = {}
    for beginning in beginnings:
        fitting = [entry for entry in entries if name(entry).startswith(beginning)]
        if len(fitting) != 1:
            number = f"{len(fitting)} {noun}s have" if fitting else f"no {noun} has"
            raise ConfigurationError(f"{number} a {called} that begins with {beginning!r}")
        chosen[name(fitting[0])] = fitting[0]
    return list(chosen.values())


def counted(entries: Sequence[object], noun: str) -> str:
    """How many there are, in words."""
    return count(len(entries), noun) if entries else f"no {noun}s"


def mebibytes(entries: Sequence[Kept]) -> str:
    """What they take on the disk together."""
    return f"{sum(entry.size for entry in entries) / (1 << 20):.1f} MiB"


def ago(seconds: float) -> str:
    """How long ago something was."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (number := int(seconds // length)) > 0:
            return f"{count(number, unit)} ago"
    return "just now"


def without_controls(value: object) -> str:
    """What an entry says of itself, as a terminal may have it."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))
