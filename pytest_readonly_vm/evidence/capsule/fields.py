"""Owns how the fields of a manifest are read, which a stranger may have written: each of its type, and in bounds. Pure.

Each function returns what was found, or raises ValueError with the reason.
"""

import re
from collections.abc import Mapping
from typing import Any

LONGEST_EXCERPT = 300
_LONGEST_TEXT = 4096
_LARGEST = 1 << 60  # bytes


def text(value: object) -> str:
    """A text that does nothing to a terminal."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ValueError(f"{value!r:.{LONGEST_EXCERPT}} is not a text, or too long")
    return printable(value)


def printable(value: str) -> str:
    """A text as a manifest has it."""
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError(f"{value!r:.{LONGEST_EXCERPT}} is not a size")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.{LONGEST_EXCERPT}} is neither true nor false")
    return value


def list_of(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{value!r:.{LONGEST_EXCERPT}} is not a list, or too long")
    return value


def mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.{LONGEST_EXCERPT}} is not what belongs there")
    return value


def fitting(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.{LONGEST_EXCERPT}} is not what belongs there")
    return value


def one_of(value: object, *choices: str) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{value!r:.{LONGEST_EXCERPT}} is none of {', '.join(choices)}")
    return value
