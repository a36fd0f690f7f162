"""Owns how a setting is declared: what reads it, and what it is part of. How it is given, the `table` says. Pure.

Whoever has to do with some of the settings asks these declarations for them, and has no list of names.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Flag, auto
from pathlib import Path
from typing import Any

from pytest_readonly_vm.config.values import located


class Part(Flag):
    """What a setting is part of, beside runs of tests, which know all."""

    BOOT = auto()
    """Of what the command ``readonly-vm boot`` can be told."""
    SHELL = auto()
    """The same for ``readonly-vm shell``."""
    RESUME = auto()
    """The same for ``readonly-vm resume``, by the environment: of this computer, and not of the machine."""
    CAPSULE = auto()
    """Of a machine that is saved: its value, or the file that it names. No secret may be."""
    KEY = auto()
    """Of the name of a frozen guest: its value, or the file that it names.

    For what shapes a guest until it is ready and shows neither in QEMU's arguments nor in what provisioning gives it,
    which are of that name anyhow.
    """
    START = auto()
    """Of what a machine of a test starts from, beside what boots and how."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it, where they wrote it, and the folder against which they meant relative paths."""

    value: object
    origin: str
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is read. `parse` gets what was given and raises ValueError with a reason."""

    parts: Part
    default: object
    parse: Callable[[object], object]
    reads: str = ""
    """What the file that it names is, if it names one that machines are made of."""
    qemu_options: tuple[str, ...] = ()
    """Options of QEMU that it decides, and nobody else may."""
    locate: Callable[..., object] = located
    """How a path that was read is joined to the folder in which it was written; see `located`."""

    def read(self, given: Given) -> object:
        """What was given, as `VmConfig` holds it. Relative paths are joined to the giver's folder.

        :raises ValueError: an impossible value.
        """
        if given.value is None and self.default is None:
            return None
        value = self.parse(given.value)
        if isinstance(value, Path) or self.locate is not located:
            return self.locate(value, written=given.value, folder=given.folder)
        return value


def setting(
    parts: Part,
    default: object,
    parse: Callable[[object], object],
    *,
    reads: str = "",
    qemu_options: tuple[str, ...] = (),
    locate: Callable[..., object] = located,
) -> Any:
    """A field of `VmConfig` that is one; what these mean says `Setting`."""
    declared = Setting(parts, default, parse, reads, qemu_options, locate)
    return field(default=default, metadata={"setting": declared})
