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
from typing import Any

from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.config.setting import Given, Part, Setting
from pytest_readonly_vm.config.settings import FILES, SETTINGS, VmConfig, parse, settings_in
from pytest_readonly_vm.errors import CapsuleRefused, ConfigurationError
from pytest_readonly_vm.evidence.capsule.fields import (
    LONGEST_EXCERPT,
    fitting,
    flag,
    list_of,
    mapping,
    number,
    one_of,
    text,
)
from pytest_readonly_vm.evidence.capsule.saved_disk import (
    DISK_MEMBER,
    BaseLayer,
    SavedDisk,
    base_layer,
    overlays_of,
    require_files,
    saved_disk,
)
from pytest_readonly_vm.qemu.card import Card, is_card

FORMAT = 3
"""To be raised when earlier versions can no longer read a capsule."""

EMBEDDED = tuple(name for name in settings_in(Part.CAPSULE) if name in FILES)
"""Settings whose files are in the capsule."""

_KEPT = {name: SETTINGS[name] for name in settings_in(Part.CAPSULE) if name not in FILES}
"""Settings that decide what QEMU is started with, of which a capsule has the value; the rest is up to who resumes."""

_DEVICES = ("-device", "-cpu", "-smp", "-m", "-vga")
_ARCH = re.compile(r"[a-z0-9_]{1,32}")
_MACHINE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FEATURE = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_MEMBER = re.compile(rf"state|{DISK_MEMBER.pattern}|{'|'.join(EMBEDDED)}|ssh-key(\.pub)?")
_LONGEST_ARGUMENT = 1 << 16
_CONTROLS = {chr(number) for number in range(32)} - {"\t", "\n"} | {"\x7f"}
_READ_WHOLE = {"user_data": 1 << 24, "ssh-key": 1 << 16, "ssh-key.pub": 1 << 16}
"""Members that somebody reads whole, and how many bytes these may have."""
_MOST_WORDS = 4096
_MOST_DISKS = 32
_MOST_FLASH = 2
_MOST_CARDS = 32
_ALWAYS_THERE = {"kind": "bios", "sizes": [], "needs_smm": False}
"""The firmware of those that were saved before there was another to choose."""


@dataclass(frozen=True, slots=True)
class SavedFirmware:
    """The firmware of a machine whose state has all of it: its kind, and the sizes of its flash devices in bytes."""

    kind: str
    sizes: tuple[int, ...]
    needs_smm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a capsule is, but for the content of its members."""

    settings: Mapping[str, Any]
    """The settings of the machine that shape it, as JSON has them."""
    disks: tuple[SavedDisk, ...]
    """That of the image first."""
    cdrom: BaseLayer | None = None
    """The image of its CD."""
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
    cpu: tuple[str, ...]
    """What the guest's processors can do, by QEMU's names of it: ``avx2``, ``pauth``, …"""
    has_named_ram: bool
    cards: tuple[Card, ...]
    """On private networks, which are not where the machine goes on."""
    firmware: SavedFirmware | None
    """None if it is one that has to be installed where the machine is to go on."""
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
    def base(self) -> tuple[BaseLayer, ...]:
        """The files of the base image; none for a machine without a disk, or with blank ones."""
        return next((disk.image for disk in self.disks if disk.name == DISK), ())

    def overlays(self, disk: str) -> int:
        """How many files of a disk are above its image."""
        return len(overlays_of(disk, self.sizes))

    @property
    def extras(self) -> tuple[str, ...]:
        """What QEMU would be given that is more than devices of the plugin's own, and may be any of its options."""
        machine = self.settings.get("machine") or ""
        options = ("-machine", machine) if "," in machine else ()
        return (*options, *self.settings.get("qemu_args", ()))

    def to_json(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    def config(self, local: VmConfig, *, network: bool = False) -> VmConfig:
        """`local` with what shaped the machine; image and files apart, which have a place here.

        :param network: whether connections lead out of a network card. The guest may be a stranger's.
        """
        options = (self.settings.get("machine") or "").partition(",")[2]
        machine = f"{self.machine},{options}" if options else self.machine
        is_connected = self.settings.get("network", VmConfig().network) != "none"
        card = ("user" if network else "restricted") if is_connected else "none"
        return local.replace(**{**self.settings, "machine": machine, "accel": self.accelerator, "network": card})


def settings_of(config: VmConfig) -> dict[str, Any]:
    """What a manifest keeps of a configuration: what is not as usual."""
    usual = VmConfig()
    changed = {name: getattr(config, name) for name in _KEPT if getattr(config, name) != getattr(usual, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def devices_of(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments of a QEMU that must be the same, in the same order, where its state is to be loaded.

    But for cards on private networks, of which a copy may have other ones on its command line.
    """
    pairs = itertools.pairwise(argv)
    return tuple(f"{option} {value}" for option, value in pairs if option in _DEVICES and not is_card(value))


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
                f"was saved by version {text(found.get('plugin'))!r}"
            )
        return _manifest(found)
    except RecursionError:
        reason = "it is nested too deeply"
    except KeyError as error:
        reason = f"it has no {error}"
    except ValueError as error:
        reason = " ".join(str(error).split())
    raise CapsuleRefused(f"{shown} has a manifest that makes no sense: {reason:.{LONGEST_EXCERPT}}")


def _manifest(found: dict[str, Any]) -> Manifest:
    sizes = {fitting(name, _MEMBER): number(size) for name, size in mapping(found["sizes"]).items()}
    for name, most in _READ_WHOLE.items():
        if sizes.get(name, 0) > most:
            raise ValueError(f"{sizes[name]} bytes are too many for {name}")
    disks = tuple(saved_disk(mapping(one)) for one in list_of(found["disks"], _MOST_DISKS))
    require_files(disks, sizes)
    return Manifest(
        settings=_settings(mapping(found["settings"])),
        disks=disks,
        cdrom=base_layer(mapping(found["cdrom"])) if found.get("cdrom") is not None else None,
        qemu=text(found["qemu"]),
        arch=fitting(found["arch"], _ARCH),
        accelerator=one_of(found["accelerator"], "kvm", "tcg"),
        machine=fitting(found["machine"], _MACHINE),
        devices=tuple(text(one) for one in list_of(found["devices"], _MOST_WORDS)),
        status=text(found["status"]),
        is_running=flag(found["is_running"]),
        cpu=tuple(fitting(one, _FEATURE) for one in list_of(found["cpu"], _MOST_WORDS)),
        has_named_ram=flag(found["has_named_ram"]),
        cards=_cards(found.get("cards", [])),
        firmware=_firmware(found.get("firmware", _ALWAYS_THERE)),
        conversation=_conversation(found["conversation"]),
        unread=number(found["unread"]),
        sizes=sizes,
        name=text(found["name"]),
        test=text(found["test"]),
        saved=text(found["saved"]),
        plugin=text(found["plugin"]),
    )


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that shape a machine, each of which could have been given by a user."""
    if unknown := found.keys() - _KEPT.keys():
        raise ValueError(f"settings that are not a capsule's affair: {sorted(unknown)}")
    for name, value in found.items():
        if type(value) is not _type_in_json(_KEPT[name]):  # True is no number here
            raise ValueError(f"the setting {name} cannot be {value!r:.{LONGEST_EXCERPT}}")
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and (len(word) > _LONGEST_ARGUMENT or not set(word).isdisjoint(_CONTROLS)):
                raise ValueError(f"the setting {name} has what no program can be given: {word!r:.{LONGEST_EXCERPT}}")
        try:
            parse(name, Given(value, "its settings"))
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
    return dict(found)


def _type_in_json(setting: Setting) -> type:
    """Of the value of a setting; one that has nothing by default is a text."""
    if setting.default is None:
        return str
    return list if isinstance(setting.default, tuple) else type(setting.default)


def _firmware(found: object) -> SavedFirmware | None:
    if found is None:
        return None
    told = mapping(found)
    return SavedFirmware(
        kind=one_of(told["kind"], "bios", "uefi", "uefi-secure"),
        sizes=tuple(number(size) for size in list_of(told["sizes"], _MOST_FLASH)),
        needs_smm=flag(told["needs_smm"]),
    )


def _cards(found: object) -> tuple[Card, ...]:
    cards = tuple(Card.of(mapping(card)) for card in list_of(found, _MOST_CARDS))
    if len({card.number for card in cards}) != len(cards):
        raise ValueError("two network cards of one number")
    return cards


def _conversation(found: object) -> tuple[str, Mapping[str, Any]] | None:
    if found is None:
        return None
    channel, parted = list_of(found, 2)
    for value in mapping(parted).values():
        if not isinstance(value, str | int):
            raise ValueError(f"{value!r} is nothing that a channel has said")
    return one_of(channel, "agent", "shell"), dict(parted)
