"""Owns an open capsule: a file that is whole, and what it says of itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_readonly_vm.errors import CapsuleRefused
from pytest_readonly_vm.evidence.capsule.file import CapsuleReader
from pytest_readonly_vm.evidence.capsule.manifest import Manifest, parse_manifest

_LONGEST_MANIFEST = 1 << 20
_LONGEST_CONSOLE = 1 << 22
_STATES = {"guest-panicked": "stopped by its panic", "io-error": "stopped by an I/O error"}


@dataclass(frozen=True, slots=True, eq=False)
class Capsule:
    """An open capsule that is whole. A context manager."""

    reader: CapsuleReader
    manifest: Manifest
    console: bytes
    """What the guest had sent to its serial console, at most the last MiB."""

    @property
    def path(self) -> Path:
        return self.reader.path

    def describe(self) -> str:
        """One line for people."""
        manifest = self.manifest
        whose = f"{manifest.name} of {manifest.test}" if manifest.test else manifest.name
        with_what = f"QEMU {manifest.qemu} {manifest.arch}, {manifest.accelerator}"
        return f"{whose}, saved {manifest.saved} with {with_what}; the guest was {self.state}"

    @property
    def state(self) -> str:
        """What the guest was when it was saved, in words that come after ``was``."""
        return _STATES.get(self.manifest.status, self.manifest.status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()


def open_capsule(path: Path) -> Capsule:
    """Open a file and make sure that it is a capsule, and what was saved.

    :raises CapsuleRefused: it is not; the message is one sentence.
    """
    try:
        reader = CapsuleReader(path)
    except OSError as error:
        raise CapsuleRefused(f"{path} cannot be read: {error.strerror}") from None
    try:
        manifest = parse_manifest(reader.content("manifest.json", limit=_LONGEST_MANIFEST), shown=str(path))
        return Capsule(reader, manifest, reader.content("console.log", limit=_LONGEST_CONSOLE))
    except BaseException:
        reader.close()
        raise
