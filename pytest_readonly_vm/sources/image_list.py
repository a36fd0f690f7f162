"""Owns the list ``vm-images.toml``: names of images, where each comes from, its digest, the settings that go with it.

::

    [debian-12]
    url = "https://example.org/debian-12.qcow2"
    digest = "sha512:…"     # of what is behind the URL
    size = 346030080        # bytes of that
    firmware = "uefi"       # and any other setting
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_reference import ImageReference, image, is_url
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig, parse
from pytest_readonly_vm.errors import ConfigurationError

FILE_NAME = "vm-images.toml"
_NEAREST = 3


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One entry of a list."""

    name: str
    url: str
    """As it is written: a URL, or a path from the list's folder."""
    digest: str | None
    """``sha256:HEX`` or ``sha512:HEX``."""
    size: int | None
    """Bytes."""
    settings: Mapping[str, object]


class ImageList:
    """The entries of one file, as it was when it was read."""

    def __init__(self, path: Path, images: Mapping[str, ListedImage]) -> None:
        self.path = path
        self.images = images

    @classmethod
    def read(cls, path: Path) -> "ImageList":
        """:raises ConfigurationError: it cannot be read, or is no such list."""
        try:
            return cls.parse(path, path.read_text())
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        except UnicodeError as error:
            raise ConfigurationError(f"{path} is not TOML: {error}") from None

    @classmethod
    def parse(cls, path: Path, text: str) -> "ImageList":
        """The list that a text would be in a file; raises as `read`."""
        try:
            content = tomllib.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"{path} is not TOML: {error}") from None
        return cls(path, {name: _entry(path, name, entry) for name, entry in content.items()})

    def get(self, name: str) -> ListedImage:
        """:raises ConfigurationError: there is no such name; the message has the nearest ones."""
        if name not in self.images:
            raise ConfigurationError(f"{self.path} lists no {name!r}; {self.known(name)}")
        return self.images[name]

    def applied(self, config: VmConfig, name: str, *, origin: str = "") -> VmConfig:
        """A configuration with this image, and with what is said here of it where nobody says otherwise.

        :param origin: put before the list, as what has named the image.
        :raises ConfigurationError: there is no such name, or its entry is wrong.
        """
        entry = self.get(name)
        where = f"{self.path.name}: {name}"
        unsaid = {key: value for key, value in entry.settings.items() if key not in config.origins}
        given = {key: Given(value, where, self.path.parent) for key, value in unsaid.items()}
        image = Given(_image(entry, self.path), f"{origin}{where}", self.path.parent)
        return config.with_settings(given | {"image": image})

    def known(self, name: str) -> str:
        """The end of a sentence about a name that is not there: those that resemble it, or all if there are few."""
        known = list(self.images)
        near = known if len(known) <= _NEAREST else difflib.get_close_matches(name, known, n=_NEAREST, cutoff=0.3)
        return f"it has {', '.join(near)}" if near else "nor one like it"


def find_list(folder: Path) -> Path | None:
    """The list that counts in a folder: the one there, or the nearest above it."""
    folder = folder.absolute()
    return next((found for one in (folder, *folder.parents) if (found := one / FILE_NAME).is_file()), None)


def listed(config: VmConfig) -> VmConfig:
    """A configuration whose images are no names any more, with what the list says of it where nobody says otherwise.

    :raises ConfigurationError: there is no such name; the message has the nearest ones. Or the list is wrong.
    """
    disks, origin = [], config.origin("disks")
    for disk in config.disks:
        if (found := _found(disk.image, origin)) is not None:
            given = parse("image", found.given(origin))
            assert isinstance(given, Path | ImageReference)
            format = disk.format or found.entry.settings.get("format")
            disk = dataclasses.replace(disk, image=given, format=None if format is None else str(format))
        disks.append(disk)
    if tuple(disks) != config.disks:
        config = config.with_settings({"disks": Given(tuple(disks), origin)})
    origin = config.origin("image")
    if (found := _found(config.image, origin)) is None:
        return config
    return found.images.applied(config, found.entry.name, origin=f"{origin}, ")


@dataclass(frozen=True, slots=True)
class _Found:
    images: ImageList
    entry: ListedImage

    def given(self, origin: str) -> Given:
        path = self.images.path
        return Given(_image(self.entry, path), f"{origin}, {path.name}: {self.entry.name}", path.parent)


def _found(image: Path | ImageReference | str | None, origin: str) -> _Found | None:
    """What a list says of an image that is named as one of a list.

    :raises ConfigurationError: there is no such name, or no list.
    """
    if not isinstance(image, ImageReference) or not isinstance(image.place, str):
        return None
    name = image.place
    missing = f"{origin}: {image.folder / name}: No such file or directory"
    path = find_list(image.folder)
    if path is None:
        raise ConfigurationError(f"{missing}, and no {FILE_NAME} in that folder or above it, which could list the name")
    images = ImageList.read(path)
    if name not in images.images:
        raise ConfigurationError(f"{missing}, and {path} lists no {name!r}; {images.known(name)}")
    return _Found(images, images.images[name])


def _image(entry: ListedImage, path: Path) -> object:
    """What is to be given as the image in its stead.

    :raises ConfigurationError: its URL or digest is none.
    """
    if not is_url(entry.url):
        return str(path.parent / entry.url)
    try:
        found = image(entry.url)
        assert isinstance(found, ImageReference)
        assert not isinstance(found.place, str)
        digest = Digest.parse(entry.digest) if entry.digest is not None else found.place.digest
    except ValueError as error:
        raise ConfigurationError(f"{path}: {entry.name}: {error}") from None
    return dataclasses.replace(
        found, place=found.place.pinned(digest, says=str(path)), folder=path.parent, label=entry.name
    )


def _entry(path: Path, name: str, entry: object) -> ListedImage:
    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(f"{path}: {name}: {what}")

    if not isinstance(entry, dict):
        raise wrong("it is not a table; write [NAME] above its url")
    rest = dict(entry)
    url, digest, size = (rest.pop(key, None) for key in ("url", "digest", "size"))
    if not isinstance(url, str) or not url:
        raise wrong("it has no url")
    if digest is not None and not isinstance(digest, str):
        raise wrong(f"the digest {digest!r} is not a text like sha256:HEX")
    if size is not None and not isinstance(size, int):
        raise wrong(f"the size {size!r} is not a number of bytes")
    if "image" in rest:
        raise wrong("it has an image; where it comes from is its url")
    if digest is not None and not is_url(url):
        raise wrong("a path has no digest; what is there is used as it is")
    return ListedImage(name, url, digest, size, rest)
