"""Owns the files beside an image that have its digest: their names, and what is written in them. Pure.

All that distributions publish: lines of GNU coreutils (``HEX  name``, ``HEX *name``), of BSD and OpenSSL
(``SHA256 (name) = HEX``), a digest by itself, and each of these within a signature of OpenPGP, which is not checked.
"""

import re
from collections.abc import Iterator, Sequence

from pytest_readonly_vm.config.digest import ALGORITHMS, Digest, algorithm_of

LARGEST = 4 << 20
"""Bytes: more than any such file has, so what is longer is none."""

_OF_ALL = ("SHA512SUMS", "CHECKSUM.SHA512", "sha512sum.txt"), ("CHECKSUM", "CHECKSUMS"), (
    "SHA256SUMS", "CHECKSUM.SHA256", "sha256sum.txt", "SHA256",
)  # fmt: skip
_OF_ONE = (".sha512", ".sha512sum", ".SHA512SUM", ".SHA512"), (".CHECKSUM",), (
    ".sha256", ".sha256sum", ".SHA256SUM", ".SHA256",
)  # fmt: skip

_GNU = re.compile(r"(\\?)([0-9a-fA-F]+)[ \t]+\*?(.+)")
_BSD = re.compile(r"SHA2?-?(256|512)[ \t]*\((.+)\)[ \t]*=[ \t]*([0-9a-fA-F]+)", re.IGNORECASE)
_BARE = re.compile(r"[0-9a-fA-F]+")


def names_beside(name: str) -> list[str]:
    """What files with the digest of `name` are called, those with the strongest first."""
    found: list[str] = []
    for of_all, of_one in zip(_OF_ALL, _OF_ONE, strict=True):
        found += [*of_all, *(name + suffix for suffix in of_one)]
    return found


def find(text: str, name: str, *, is_its_own: bool, algorithms: Sequence[str] = ALGORITHMS) -> Digest | None:
    """The strongest digest of a file that a text has; none if it has none of that name.

    :param is_its_own: the text is that of ``<name>.sha256`` or the like, which may say the digest alone, or name the
        file as it was called where it was built.
    :param algorithms: which will do, the strongest first.
    :raises ValueError: it has two different ones of a kind.
    """
    entries = list(_entries(text))
    found = {digest for written, digest in entries if written in (name, f"./{name}")}
    if is_its_own and not found:
        found = {digest for _, digest in entries}
    for algorithm in algorithms:
        of_kind = sorted(digest for digest in found if digest.algorithm == algorithm)
        if len(of_kind) > 1:
            raise ValueError(f"has two digests of {name}: {of_kind[0]} and {of_kind[1]}")
        if of_kind:
            return of_kind[0]
    return None


def names(text: str) -> list[str]:
    """The names that a text has digests of."""
    return [written.removeprefix("./") for written, _ in _entries(text) if written]


def _entries(text: str) -> Iterator[tuple[str, Digest]]:
    """Names, which may be missing, and digests."""
    for line in text.removeprefix("\ufeff").splitlines():
        line = line.strip()
        if match := _BSD.fullmatch(line):
            algorithm, written, digits = f"sha{match[1]}", match[2], match[3]
            if algorithm_of(digits) != algorithm:
                continue
        elif match := _GNU.fullmatch(line):
            digits, written = match[2], match[3]
            if match[1]:  # sha256sum(1) escapes a name with a backslash or a line end in it
                written = written.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\")
        elif _BARE.fullmatch(line):
            digits, written = line, ""
        else:
            continue
        if (kind := algorithm_of(digits)) is not None:
            yield written, Digest(kind, digits.lower())
