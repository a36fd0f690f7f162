"""Owns what tests of images from registries share: disks, and a folder that they are brought into."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_readonly_vm import VmError
from pytest_readonly_vm.config.oci_reference import OciReference
from pytest_readonly_vm.sources.download.from_registry import downloaded_from_registry, locate_in_registry

DISK = random.Random(11).randbytes(1 << 18) + bytes(1 << 18)
OTHER = b"another disk"
REPEATED = b"data" * (1 << 20)
"""4 MiB without zeros, which take little when they are packed."""


@dataclass
class Images:
    """A folder for downloads, and what was told of them."""

    host: str
    folder: Path
    warned: list[str] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)

    def reference(self, tag: str) -> OciReference:
        return OciReference.parse(f"oci://{self.host}/images{tag}")

    def get(
        self, tag: str, *, arch: str | None = None, limit: int = 1 << 30, on_progress: Callable[[int], object] = id
    ) -> bytes:
        """The disk, of which nothing is left."""

        def progress(what: str, done: int, size: int | None) -> None:
            assert what.startswith("downloading ")
            self.progress.append(done)
            on_progress(done)

        with downloaded_from_registry(
            self.reference(tag),
            self.folder,
            arch=arch,
            limit=limit,
            progress=progress,
            tell=pytest.fail,
            warn=self.warned.append,
        ) as found:
            content = found.path.read_bytes()
            assert found.sha256.hex == hashlib.sha256(content).hexdigest()
            assert found.located == locate_in_registry(self.reference(tag), arch=arch, warn=pytest.fail)
        assert list(self.folder.iterdir()) == []
        return content

    def refused(self, tag: str, *, arch: str | None = None, limit: int = 1 << 30) -> str:
        """The sentence, without the name of the image; nothing is left."""
        with pytest.raises(VmError) as refusal:
            self.get(tag, arch=arch, limit=limit)
        assert list(self.folder.iterdir()) == []
        return str(refusal.value).replace(f"{self.reference(tag)}", "IMAGE")
