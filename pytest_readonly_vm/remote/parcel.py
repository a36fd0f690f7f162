"""Owns what travels: a frozen guest as files, and what is known of one that lies at a place. No I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MOST_FILES = 300


@dataclass(frozen=True)
class Parcel:
    """A frozen guest as it travels."""

    key: str
    """64 hexadecimal digits: its name everywhere."""
    description: dict[str, str]
    """What people want to know of it."""
    facts: dict[str, Any]
    """What its owner needs to use it; anything that JSON can hold."""
    files: Mapping[str, int]
    """Descriptors by names; their positions do not matter, and holes stay holes."""
    below: tuple[str, ...] = ()
    """Keys of parcels that it has most of its bytes in common with, as those of the layers below it. Those that lie at
    the place are not sent again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a push has cost."""

    sent: int
    """Bytes that went over the wire."""
    there: int
    """Bytes of what the parcel is made of that lay there already."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Blocks of files that lie at a place as one blob."""

    digest: str
    """``sha256:HEX``, of the blob as it lies there."""
    size: int
    """Its bytes there."""
    unpacked: int
    """Its bytes when unpacked."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a file, and where it lies."""

    number: int
    """At which multiple of the length of a block it begins in the file."""
    pack: int
    """Which of the packs has it."""
    offset: int
    """Where in that, when unpacked, in bytes."""
    sha256: bytes


@dataclass(frozen=True, slots=True)
class File:
    """A file of a parcel. Where no block is, it is zero."""

    size: int
    blocks: tuple[Block, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parcel that lies at a place, and was found to be what its digests and, if asked for, its signature say."""

    key: str
    digest: str
    """``sha256:HEX`` of what is signed."""
    description: Mapping[str, str]
    facts: dict[str, Any]
    packs: tuple[Pack, ...] = field(repr=False)
    files: Mapping[str, File] = field(repr=False)
    block: int
    """Bytes of a block; the last of a file may have fewer."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name; holes count."""
        return {name: file.size for name, file in self.files.items()}

    @property
    def size(self) -> int:
        """Bytes that all of it would cost to fetch."""
        return sum(pack.size for pack in self.packs)

    @property
    def data(self) -> int:
        """Bytes that it takes here at most, when its holes are holes."""
        return sum(
            min(self.block, file.size - one.number * self.block) for file in self.files.values() for one in file.blocks
        )


def is_key(text: str) -> bool:
    """Whether a parcel may be called so."""
    return bool(_KEY.fullmatch(text))


def is_file_name(text: str) -> bool:
    """Whether a file of a parcel may be called so: the name is used on the computer that fetches it."""
    return bool(_NAME.fullmatch(text))
