"""Owns the proof that all hosts of a run test the same bases: by digest, before a machine starts.

A worker tells the controller what it has; the first word on an image counts, and who has something else is told so and
starts nothing. An image whose digest is written down, in ``vm-images.toml`` or with its URL, is known by that: what was
downloaded has been compared already. Of others the SHA-256 of every file of the chain counts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.image.kept_digests import KeptDigests
from pytest_readonly_vm.image.network_file import ChainFile, NetworkFile
from pytest_readonly_vm.plugin.given import given_images
from pytest_readonly_vm.plugin.hosts.line import FarLine, LineIsDown
from pytest_readonly_vm.printable import line

_MOST = 10_000
"""Images of which the controller keeps what was said."""
_SHOWN = 12
"""Digits of a digest that are told."""


class SameBases:
    """A worker's side: called with each image before the first machine starts with it."""

    def __init__(self, config: pytest.Config, line: FarLine) -> None:
        self._config = config
        self._line = line
        self._kept = KeptDigests()

    def __call__(self, setting: str, image: Path | ImageReference, origin: str, files: Sequence[ChainFile]) -> None:
        """:raises ImageError: another host has another one, or nobody can say."""
        if (name := self._name(setting, image, origin)) is None:
            return
        place = None if isinstance(image, Path) else image.place
        if (pinned := getattr(place, "digest", None)) is not None:
            digests = [str(pinned).removeprefix("sha256:")]  # as of a file that another host has by its path
        else:
            digests = [self._digest(file, origin) for file in files]
        try:
            complaint = self._line.ask("base", name, digests, str(files[0].path if files else image))
        except LineIsDown as error:
            raise ImageError(f"{image} (from {origin}) cannot be compared with that of other hosts: {error}") from None
        if complaint:
            raise ImageError(str(complaint))

    def _digest(self, file: ChainFile, origin: str) -> str:
        if isinstance(file, NetworkFile):
            if not file.fingerprint.is_lasting:
                raise ImageError(
                    f"{file.path} (from {origin}) cannot be compared with that of other hosts: its server tells "
                    "nothing of what is in it; write #sha256=HEX behind it"
                )
            return str(file.fingerprint)
        return self._kept.sha256(file)

    def _name(self, setting: str, image: Path | ImageReference, origin: str) -> str | None:
        """What the image is called on every host, wherever it is there; None for one that is a test's own."""
        root = self._config.rootpath
        source = origin.replace(f"{root}/", "")
        if setting == "image":
            given = [str(one.value) for one in given_images(self._config)]
            source = origin.partition(",")[0]
            if any(one.origin == source for one in given_images(self._config)):
                if len(given) == 1:
                    return "the base image of the run"
                source = "the images of the run"
        if not isinstance(image, Path):
            return f"{setting} from {source}: {image}"
        factory = getattr(self._config, "_tmp_path_factory", None)
        if factory is not None and image.is_relative_to(factory.getbasetemp()):
            return None
        return f"{setting} from {source}: {image.relative_to(root) if image.is_relative_to(root) else image.name}"


class Compared:
    """The controller's side: what every host has said. Called on execnet's threads."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, tuple[str, ...], str]] = {}
        self.differences: dict[str, None] = {}
        """Sentences, each once."""

    def hear(self, host: str, name: Any, digests: Any, path: Any) -> str:
        """What a worker says of an image; the answer is nothing, or why it must not be used."""
        name, path = line(str(name)), line(str(path))
        said = (host, tuple(str(one) for one in digests), path)
        if len(self._said) >= _MOST and name not in self._said:
            return f"{host} names more than {_MOST} images"
        first = self._said.setdefault(name, said)
        if first[1] == said[1]:
            return ""
        sentence = (
            f"two hosts have different images for the same tests ({name}): {_told(*first)}, and {_told(*said)}; put "
            "the same on both, or name one with its digest in vm-images.toml"
        )
        self.differences[sentence] = None
        return sentence


def _told(host: str, digests: tuple[str, ...], path: str) -> str:
    shown = " on ".join(line(digest.rpartition(":")[2][:_SHOWN]) for digest in digests)
    return f"{host} has {path} (SHA-256 {shown}…)"
