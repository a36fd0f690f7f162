"""Owns what the commands of ``readonly-vm image`` have in common: an entry of the list, as it is read and shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_readonly_vm.config import image_reference
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.host.terminal import Terminal
from pytest_readonly_vm.sources.image_list import ImageList, ListedImage

if TYPE_CHECKING:
    from pytest_readonly_vm.sources.list_editor import ListEditor

_DIGITS_SHOWN = 12
_MIB = 1 << 20


def say(sentence: str) -> None:
    """Tell the person something, on standard error."""
    Terminal().say(sentence)


def chosen(images: ImageList, names: Sequence[str]) -> list[ListedImage]:
    """The images of a list, or those that are named.

    :raises ConfigurationError: there is no such name.
    """
    return [images.get(name) for name in names] if names else list(images.images.values())


def open_editor(where: Path) -> "ListEditor":
    """The list to be changed.

    :raises HostError: what it takes to change a list is not installed.
    """
    try:
        from pytest_readonly_vm.sources.list_editor import ListEditor
    except ImportError:
        raise HostError("to change a list takes tomlkit: pip install 'pytest-readonly-vm[images]'") from None
    return ListEditor(where)


def image_of(url: str, where: Path) -> Path | ImageReference:
    """What is meant by a URL, or by a path from the list's folder.

    :raises ConfigurationError: it is no URL, or there is no such file.
    """
    try:
        image = image_reference.image(url)
    except ValueError as error:
        raise ConfigurationError(f"URL: {error}") from None
    if isinstance(image, Path) and not (where.parent / image).exists():
        raise ConfigurationError(f"URL: {where.parent / image}: No such file or directory")
    return image


def shown(values: Mapping[str, object]) -> str:
    """What a list has of an image, in one line."""
    words = []
    for key, value in values.items():
        if key == "url":
            words.append(_shown_url(str(value)))
        elif key == "digest":
            algorithm, _, digits = str(value or "").partition(":")
            words.append(f"{algorithm}:{digits[:_DIGITS_SHOWN]}…" if value else "no digest")
        elif key == "size":
            words += [f"{value / _MIB:.1f} MiB"] if isinstance(value, int) else []
        elif key == "password":
            words.append("a password")
        else:
            words.append(f"{key} {value}")
    return ", ".join(words)


def _shown_url(written: str) -> str:
    try:
        return str(image_reference.image(written))
    except ValueError:  # of which is told with its state
        return "no URL of an image"
