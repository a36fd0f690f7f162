"""Owns what tests of downloads from the web share: a content, and a folder that it is brought into."""

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_readonly_vm import VmError
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.sources.download.from_url import downloaded
from tests.web_server import Site

CONTENT = random.Random(7).randbytes(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()
PART = 1 << 20
NAME = "a disk.qcow2"
"""What tests call an image, with a space that URLs write as %20."""


@dataclass
class Downloads:
    """A folder for downloads, and what was told of them."""

    folder: Path
    told: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    progress: list[tuple[str, int, int | None]] = field(default_factory=list)

    def get(self, url: str, *, limit: int = 1 << 30) -> bytes:
        """The content; it is taken from the folder, which has to be empty then."""
        with downloaded(
            ImageUrl.parse(url),
            self.folder,
            limit=limit,
            progress=lambda *one: self.progress.append(one),
            tell=self.told.append,
            warn=self.warned.append,
        ) as found:
            content = found.path.read_bytes()
            assert (found.located.size, found.sha256.hex) == (len(content), hashlib.sha256(content).hexdigest())
            found.path.unlink()
        return content

    def refused(self, url: str, *, limit: int = 1 << 30) -> str:
        """The sentence, once it is sure that nothing was left."""
        with pytest.raises(VmError) as refusal:
            self.get(url, limit=limit)
        assert self.left == []
        return str(refusal.value)

    @property
    def left(self) -> list[str]:
        """Which files there are, by what comes after their key."""
        return sorted(path.suffix for path in self.folder.iterdir())


@dataclass
class Certified:
    """A server with TLS, and the file with the certificate of its authority."""

    site: Site
    authority: Path


def pinned(url: str, digest: str = f"sha256={SHA256}") -> str:
    return f"{url}#{digest}&insecure"
