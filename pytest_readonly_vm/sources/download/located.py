"""Owns what is known of an image that is elsewhere, and of one that has come from there. Values only."""

from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.sources.download.part_file import Version


@dataclass(frozen=True, slots=True)
class Located:
    """An image as it is there now."""

    digest: Digest | None
    """Of the file as it is published, or of what a registry's tag leads to; None where nobody says."""
    says: str
    """Who says the digest, for people."""
    size: int | None
    """Bytes to be downloaded, where the server says."""
    version: Version
    """What else tells it from another at the same place."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """An image that has come, as it was published: packed perhaps. It is what its digest says."""

    path: Path
    sha256: Digest
    """Of this file, by whatever it was compared."""
    located: Located
