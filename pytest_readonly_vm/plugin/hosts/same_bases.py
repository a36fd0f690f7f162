"""Owns the proof that all hosts of a run test the same bases: by digest, before a machine starts.

A worker tells the controller what it has; the first word on an image counts, and who has something else is told so and
starts nothing. An image whose digest is written down, in ``vm-images.toml`` or with its URL, is known by that: what was
downloaded has been compared already. Of others the SHA-256 of every file of the chain counts.

What is given for the run has the same name everywhere, and so has a file of the checkout. Another one is known by its
file name, whichever test wants it, as no test runs on two hosts. Two may have the same: who has a file where the other
host has his own means that one by it, and not the one that he asks for.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.image.kept_digests import KeptDigests
from pytest_readonly_vm.image.network_file import ChainFile, NetworkFile
from pytest_readonly_vm.plugin.given import given_images, given_settings
from pytest_readonly_vm.plugin.hosts.line import FarLine, LineIsDown
from pytest_readonly_vm.printable import line

_MOST = 10_000
"""Images of which the controller keeps what was said."""
_SHOWN = 12
"""Digits of a digest that are told."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SameBases:
    """A worker's side: called with each image before a machine starts with it."""

    def __init__(self, config: pytest.Config, line: FarLine) -> None:
        self._config = config
        self._line = line
        self._kept = KeptDigests()
        self._same: set[tuple[str, Path | ImageReference]] = set()

    def __call__(self, setting: str, image: Path | ImageReference, origin: str, files: Sequence[ChainFile]) -> None:
        """:raises ImageError: another host has another one, or nobody can say."""
        name, is_exact = self._name(setting, image, origin)
        if name is None or (name, image) in self._same:
            return
        place = None if isinstance(image, Path) else image.place
        if (pinned := getattr(place, "digest", None)) is not None:
            digests = [str(pinned).removeprefix("sha256:")]  # as of a file that another host has by its path
        else:
            digests = [self._digest(file, origin) for file in files]
        path = str(files[0].path if files else image)
        try:
            answer = self._line.ask("base", name, digests, path, is_exact, None)
            if isinstance(answer, list | tuple):
                lacking = [one for one in map(str, answer) if not Path(one).exists()]
                answer = self._line.ask("base", name, digests, path, is_exact, lacking)
        except LineIsDown as error:
            raise ImageError(f"{image} (from {origin}) cannot be compared with that of other hosts: {error}") from None
        if answer:
            raise ImageError(str(answer))
        self._same.add((name, image))

    def _digest(self, file: ChainFile, origin: str) -> str:
        if isinstance(file, NetworkFile):
            if not file.fingerprint.is_lasting:
                raise ImageError(
                    f"{file.path} (from {origin}) cannot be compared with that of other hosts: its server tells "
                    "nothing of what is in it; write #sha256=HEX behind it"
                )
            return file.fingerprint.sha256.rpartition(":")[2] or str(file.fingerprint)
        return self._kept.sha256(file)

    def _name(self, setting: str, image: Path | ImageReference, origin: str) -> tuple[str | None, bool]:
        """What the image is called on every host, and whether that is surely the same one there.

        None for one that is a test's own.
        """
        named, _, disk = setting.partition(" ")
        source = origin.partition(",")[0]  # of a name, the list is behind it
        if named == "image":
            origins = [one.origin for one in given_images(self._config)]
            values = [str(one.value) for one in given_images(self._config)]
            if source in origins:
                number = f" (the image {values.index(str(image)) + 1})" if str(image) in values[1:] else ""
                return f"the base image of the run{number}", True
        elif (given := given_settings(self._config).get(named)) is not None and given.origin == source:
            return f"the {f'disk {disk}' if disk else named} of the run", True
        root = self._config.rootpath
        if not isinstance(image, Path):
            has_list = image.label is not None and image.folder.is_relative_to(root)
            return f"{image}{f' of {image.folder.relative_to(root)}' if has_list else ''}", True
        factory = getattr(self._config, "_tmp_path_factory", None)
        if factory is not None and image.is_relative_to(factory.getbasetemp()):
            return None, True
        if image.is_relative_to(root):
            return str(image.relative_to(root)), True
        return f"what is called {image.name}", False


class Compared:
    """The controller's side: what every host has said. Called on execnet's threads."""

    def __init__(self) -> None:
        self._said: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {}
        """By name, host and path: digests."""
        self._number = 0
        self.differences: dict[str, None] = {}
        """Sentences, each once."""

    def hear(self, host: str, name: Any, digests: Any, path: Any, is_exact: Any, lacking: Any) -> str | list[str]:
        """What a worker says of an image; the answer is nothing, or why it must not be used.

        Or paths, where only the file names are the same: it is to ask again, with those that its host has not.
        """
        name, path = line(str(name)), line(str(path))
        said = tuple(str(one) for one in digests)
        known = self._said.setdefault(name, {})
        if (mine := known.get((host, path), said)) != said:
            now = f"{_told(host, mine, path)} when the run began, and it is {_shown(said)} now"
            return self._note(f"an image was changed while tests ran with it ({name}): {now}")
        if self._number >= _MOST and (host, path) not in known:
            return f"{host} names more than {_MOST} images"
        self._number += (host, path) not in known
        known[host, path] = said  # before others are looked at: of two that come at once, one sees the other
        others = {one: digests for one, digests in known.copy().items() if is_exact or one[0] != host}
        unlike = [one for one, digests in others.items() if digests != said]
        if not is_exact:
            if said in others.values() or not unlike:
                return ""
            certain = [one for one in unlike if one[1] == path or one[1] in (lacking or ())]
            if not certain and lacking is None:
                return [where for _, where in unlike]
            unlike = certain
        if not unlike:
            return ""
        first = unlike[0]
        who = f"{host} has" if first[0] == host else "two hosts have"
        return self._note(
            f"{who} different images for the same tests ({name}): {_told(first[0], known[first], first[1])}, and "
            f"{_told(host, said, path)}; put the same on both, or name one with its digest in vm-images.toml"
        )

    def _note(self, sentence: str) -> str:
        self.differences[sentence] = None
        return sentence


def _told(host: str, digests: tuple[str, ...], path: str) -> str:
    return f"{host} has {path} ({_shown(digests)})"


def _shown(digests: tuple[str, ...]) -> str:
    if all(map(_SHA256.fullmatch, digests)):
        return f"SHA-256 {' on '.join(digest[:_SHOWN] for digest in digests)}…"
    return line(" on ".join(digests))[:200]
