"""Owns the digest of a file as people write it: ``sha256:`` or ``sha512:`` and its hexadecimal digits. Pure."""

import re
from dataclasses import dataclass
from typing import Self

_DIGITS = {"sha512": 128, "sha256": 64}

ALGORITHMS = tuple(_DIGITS)
"""Those that a file may be compared by, the strongest first."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest and what it was made by. `str` is ``sha256:HEX``, as registries write it."""

    algorithm: str
    hex: str
    """In lower case."""

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read ``sha256:HEX`` or ``sha256=HEX``, in upper or lower case.

        :raises ValueError: it is of another kind, or has another number of digits.
        """
        algorithm, *rest = re.split("[=:]", written, maxsplit=1)
        algorithm, digits = algorithm.strip().lower(), "".join(rest)
        if not rest or algorithm not in _DIGITS:
            raise ValueError(f"{written!r} is no digest; write it like sha256:{'0' * 8}… or sha512:{'0' * 8}…")
        if not re.fullmatch(r"[0-9a-fA-F]*", digits):
            raise ValueError(f"{written!r} is no digest: it has other characters than hexadecimal digits")
        if len(digits) != _DIGITS[algorithm]:
            raise ValueError(
                f"{written!r} has {len(digits)} hexadecimal digits; those of {algorithm} have {_DIGITS[algorithm]}"
            )
        return cls(algorithm, digits.lower())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def algorithm_of(digits: str) -> str | None:
    """By what a digest was made that has so many digits, if that is one of ours."""
    return next((name for name, length in _DIGITS.items() if length == len(digits)), None)
