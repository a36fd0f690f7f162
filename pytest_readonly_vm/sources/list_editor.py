"""Owns changes of the list ``vm-images.toml``, which leave all that people wrote in it: comments, order, settings."""

from collections.abc import Mapping
from pathlib import Path

import tomlkit

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.sources.image_list import ImageList


class ListEditor:
    """The list in one file, to be changed and saved.

    The only importer of tomlkit, which is not installed with the package.
    """

    def __init__(self, path: Path) -> None:
        """Read it; where there is no file it is empty.

        :raises ConfigurationError: it cannot be read, or is no such list.
        """
        self._path = path
        self._is_there = path.exists()
        self.images = ImageList.read(path).images if self._is_there else {}
        self._document = tomlkit.parse(path.read_text()) if self._is_there else tomlkit.document()

    def set(self, name: str, values: Mapping[str, object]) -> None:
        """Set these values of an image, which is new if there is none of this name; others stay.

        A value of None is removed.
        """
        entry = self._document.get(name)
        if entry is None:
            entry = tomlkit.table()
            if self._document:
                self._document.add(tomlkit.nl())
            self._document.add(name, entry)
        for key, value in values.items():
            if value is not None:
                entry[key] = value
            elif key in entry:
                del entry[key]

    def remove(self, name: str) -> None:
        """:raises KeyError: there is no image of this name."""
        del self._document[name]

    def save(self) -> None:
        """Write the file, whole or not at all.

        :raises ConfigurationError: it cannot be written, or what was set makes no list. The file is as it was then.
        """
        text = tomlkit.dumps(self._document)
        ImageList.parse(self._path, text)
        mode = self._path.stat().st_mode & 0o777 if self._is_there else 0o666
        try:
            with atomic_file(self._path, mode=mode) as file:
                file.write(text.encode())
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be written: {error.strerror}") from None
