"""Owns how an image is named by something else than a path: a URL, or a name of the list ``vm-images.toml``. Pure."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pytest_readonly_vm.config import values
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.config.network_image import SCHEMES as _STAYING
from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.config.oci_reference import OciReference

_SCHEMES = ("https", "http", "oci", *_STAYING)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image that is first to be found, and perhaps brought here. Shows itself without anything secret."""

    place: ImageUrl | OciReference | NetworkImage | str
    """Where it is; a text is a name of a list."""
    folder: Path = field(default_factory=Path.cwd, compare=False)
    """Where it was written: the list of a name is looked for there, and above."""
    label: str | None = field(default=None, compare=False)
    """Its name in a list, if it was given by that."""

    def __str__(self) -> str:
        return self.label or str(self.place)

    def describe(self) -> str:
        """For people who want to know all: name and place."""
        return f"{self.label}, {self.place}" if self.label else str(self.place)

    @property
    def name(self) -> str:
        """The last part, as the name of a path."""
        if isinstance(self.place, ImageUrl | NetworkImage):
            return self.place.name or str(self.place)
        return str(getattr(self.place, "repository", self.place)).rpartition("/")[2]


def is_name(written: str) -> bool:
    """Whether a list may have an image of this name."""
    return bool(_NAME.fullmatch(written))


def is_url(written: str) -> bool:
    """Whether something is no path, be it as a URL right or wrong."""
    return bool(_URL.match(written))


def image(value: object) -> Path | ImageReference:
    """What was written for an image, a path or a URL; see `located_image` for a name.

    :raises ValueError: a URL of a kind that images are not had by, or one that is wrong.
    """
    if isinstance(value, ImageReference):
        return value
    if isinstance(value, str) and (found := _URL.match(value)):
        written = values.text(value)
        scheme = found[1].lower()
        if scheme == "oci":
            return ImageReference(OciReference.parse(written))
        if scheme in _STAYING:
            return ImageReference(NetworkImage.parse(written))
        if scheme not in (*_SCHEMES, "file"):
            known = ", ".join(f"{one}://" for one in _SCHEMES)
            raise ValueError(f"{scheme}:// is none of {known}{values.nearest(scheme, _SCHEMES)}")
        return ImageReference(ImageUrl.parse(written))
    return values.path(value)


def located_image(found: object, *, written: object, folder: Path | None) -> object:
    """The same from the folder in which it was meant. A word that is no file there is a name of a list.

    :raises ValueError: as `values.located`.
    """
    if isinstance(written, ImageReference):
        return written
    if isinstance(found, ImageReference):
        return ImageReference(found.place, folder or Path.cwd())
    assert isinstance(found, Path)
    if isinstance(written, str) and is_name(written) and not os.path.lexists((folder or Path()) / written):
        return ImageReference(written, folder or Path.cwd())
    return values.located(found, written=written, folder=folder)
