"""Owns how an image is named by something else than a path: a URL, or a name of the list ``vm-images.toml``. Pure."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pytest_readonly_vm.config import values

SCHEMES = ("https", "http", "oci")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SECRET = re.compile(r"(?<=://)[^/?#]*@")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image that is first to be found, and perhaps brought here.

    Shows itself without the user and password that a URL may have.
    """

    written: str = field(repr=False)
    """A URL with its secrets, or a name."""
    folder: Path = field(default_factory=Path.cwd, compare=False)
    """Where it was written: the list of a name is looked for there, and above."""
    label: str | None = field(default=None, compare=False)
    """Its name in a list, if it was given by that."""

    @property
    def scheme(self) -> str | None:
        """One of `SCHEMES`; None for a name."""
        found = _URL.match(self.written)
        return found[1].lower() if found else None

    def __str__(self) -> str:
        return self.label or without_secrets(self.written)

    def describe(self) -> str:
        """For people who want to know all: name and URL."""
        url = without_secrets(self.written)
        return f"{self.label}, {url}" if self.label else url

    @property
    def name(self) -> str:
        """The last part, without a digest: as the name of a path."""
        if self.label is not None:
            return self.label
        return re.split(r"[#?@]", str(self))[0].rstrip("/").rpartition("/")[2]


def is_name(written: str) -> bool:
    """Whether a list may have an image of this name."""
    return bool(_NAME.fullmatch(written))


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user and password."""
    return _SECRET.sub("", url)


def image(value: object) -> Path | ImageReference:
    """What was written for an image, a path or a URL; see `located_image` for a name.

    :raises ValueError: a URL of a kind that images are not had by.
    """
    if isinstance(value, ImageReference):
        return value
    if isinstance(value, str) and (found := _URL.match(value)):
        scheme = found[1].lower()
        if scheme == "file":
            raise ValueError(f"{value!r} is a URL of a file; give its path")
        if scheme not in SCHEMES:
            known = ", ".join(f"{one}://" for one in SCHEMES)
            raise ValueError(f"{without_secrets(value)!r} begins with none of {known}{values.nearest(scheme, SCHEMES)}")
        return ImageReference(values.text(value))
    return values.path(value)


def located_image(found: object, *, written: object, folder: Path | None) -> object:
    """The same from the folder in which it was meant. A word that is no file there is a name of a list.

    :raises ValueError: as `values.located`.
    """
    if isinstance(written, ImageReference):
        return written
    if isinstance(found, ImageReference):
        return ImageReference(found.written, folder or Path.cwd())
    assert isinstance(found, Path)
    if isinstance(written, str) and is_name(written) and not os.path.lexists((folder or Path()) / written):
        return ImageReference(written, folder or Path.cwd())
    return values.located(found, written=written, folder=folder)
