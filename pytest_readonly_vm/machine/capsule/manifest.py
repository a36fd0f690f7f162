"""Owns what a capsule says of itself: its manifest, as JSON and back. Pure.

A manifest may come from a stranger. It decides what machine there is, and nothing of this computer: not which program
is started, nor how it is confined, nor where anything is written. Extra arguments for QEMU are asked for, see `extras`.
"""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.errors import CapsuleRefused, ConfigurationError

FORMAT = 1
"""To be raised when earlier versions can no longer read a capsule."""

EMBEDDED = ("kernel", "initrd", "user_data")
"""Settings whose files are in the capsule."""

_SHAPING = (
    *("memory", "cpus", "cpu_model", "machine", "disk_interface", "network"),
    *("append", "channel", "provision", "qemu_args"),
)
"""Settings that decide what QEMU is started with; the rest is up to who resumes. None of them is a secret."""

_DEVICES = ("-device", "-cpu", "-smp", "-m", "-vga")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCH = re.compile(r"[a-z0-9_]{1,32}")
_MACHINE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MEMBER = re.compile(r"state|disk\d{1,2}\.qcow2|kernel|initrd|user_data|ssh-key(\.pub)?")
_LONGEST_EXCERPT = 300


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """One file of the base image, the topmost first."""

    path: str
    format: str
    virtual_size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a capsule is, but for the content of its members."""

    settings: Mapping[str, Any]
    """The settings of the machine that shape it, as JSON has them."""
    base: tuple[BaseLayer, ...]
    """Empty for a machine without a disk."""
    qemu: str
    """Version of the QEMU that saved it."""
    arch: str
    accelerator: str
    machine: str
    """Its machine type with the version that an alias like ``pc`` stands for."""
    devices: tuple[str, ...]
    """The arguments that made its devices; see `devices_of`."""
    status: str
    """What QEMU called the guest's state: ``running``, ``paused``, ``io-error``, ``guest-panicked``, …"""
    is_running: bool
    has_named_ram: bool
    conversation: tuple[str, Mapping[str, Any]] | None
    """The channel that was in use, and where it stood."""
    unread: int
    """Bytes at the end of the console's text in which no pattern had been found yet."""
    sizes: Mapping[str, int]
    """Of the compressed members, in bytes, without compression."""
    name: str
    test: str
    saved: str
    """When, in ISO 8601."""
    plugin: str = field(default_factory=lambda: version("pytest-readonly-vm"))

    @property
    def disks(self) -> int:
        """How many files of the guest's disk are above the base."""
        return sum(name.startswith("disk") for name in self.sizes)

    @property
    def extras(self) -> tuple[str, ...]:
        """What QEMU would be given that is more than devices of the plugin's own, and may be any of its options."""
        machine = str(self.settings.get("machine") or "")
        options = ("-machine", machine) if "," in machine else ()
        return (*options, *self.settings.get("qemu_args", ()))

    def to_json(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    def config(self, local: VmConfig) -> VmConfig:
        """`local` with what shaped the machine; image and files apart, which have a place here.

        :raises CapsuleRefused: a setting has an impossible value.
        """
        options = str(self.settings.get("machine") or "").partition(",")[2]
        machine = f"{self.machine},{options}" if options else self.machine
        try:
            return local.replace(**{**self.settings, "machine": machine, "accel": self.accelerator})
        except ConfigurationError as error:
            raise CapsuleRefused(f"the capsule has an impossible setting: {error}") from None


def settings_of(config: VmConfig) -> dict[str, Any]:
    """What a manifest keeps of a configuration: what is not as usual."""
    usual = VmConfig()
    changed = {name: getattr(config, name) for name in _SHAPING if getattr(config, name) != getattr(usual, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def devices_of(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments of a QEMU that must be the same, in the same order, where its state is to be loaded."""
    pairs = itertools.pairwise(argv)
    return tuple(f"{option} {value}" for option, value in pairs if option in _DEVICES)


def parse_manifest(data: bytes, *, shown: str) -> Manifest:
    """The manifest of a capsule that is called `shown` in messages.

    :raises CapsuleRefused: it is of a newer format, or no manifest.
    """
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or not isinstance(found.get("format"), int):
            raise ValueError("it has no format")
        if found["format"] != FORMAT:
            raise CapsuleRefused(
                f"{shown} has the format {found['format']} and this version of pytest-readonly-vm reads {FORMAT}; it "
                f"was saved by version {_text(found.get('plugin'))!r}"
            )
        return _manifest(found)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CapsuleRefused(f"{shown} has a manifest that makes no sense: {error!r:.{_LONGEST_EXCERPT}}") from None


def _manifest(found: dict[str, Any]) -> Manifest:
    settings = dict(found["settings"])
    if unknown := settings.keys() - set(_SHAPING):
        raise ValueError(f"settings that are not a capsule's affair: {sorted(unknown)}")
    sizes = {_fitting(name, _MEMBER): _number(size) for name, size in dict(found["sizes"]).items()}
    named = found["conversation"]
    return Manifest(
        settings=settings,
        base=tuple(_base_layer(layer) for layer in found["base"]),
        qemu=_text(found["qemu"]),
        arch=_fitting(found["arch"], _ARCH),
        accelerator=_one_of(found["accelerator"], "kvm", "tcg"),
        machine=_fitting(found["machine"], _MACHINE),
        devices=tuple(_text(one) for one in found["devices"]),
        status=_text(found["status"]),
        is_running=bool(found["is_running"]),
        has_named_ram=bool(found["has_named_ram"]),
        conversation=(_one_of(named[0], "agent", "shell"), dict(named[1])) if named else None,
        unread=_number(found["unread"]),
        sizes=sizes,
        name=_text(found["name"]),
        test=_text(found["test"]),
        saved=_text(found["saved"]),
        plugin=_text(found["plugin"]),
    )


def _base_layer(found: Mapping[str, Any]) -> BaseLayer:
    path = Path(_text(found["path"]))
    if not path.is_absolute():
        raise ValueError(f"{path} is not absolute")
    return BaseLayer(
        str(path), _text(found["format"]), _number(found["virtual_size"]), _fitting(found["sha256"], _SHA256)
    )


def _text(value: object) -> str:
    """A text that does nothing to a terminal."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def _fitting(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not what belongs there")
    return value


def _one_of(value: object, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return str(value)
