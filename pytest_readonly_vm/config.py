"""Owns what can be configured: every setting, its type, default and help, and `VmConfig`, the frozen result.

Pure: reads no environment, no file and no pytest. Where a value came from (its *origin*) travels with it, because every
complaint about a value names the place to mend it.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.qemu_args import objection

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)([KMGT])(?:i?B)?", re.IGNORECASE)
_SMALLEST_MEMORY = 1 << 20

SCOPES = ("function", "class", "module", "package", "session")


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it, where they wrote it, and the folder against which they meant relative paths."""

    value: object
    origin: str
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is read and explained. `parse` gets what was given and raises ValueError with a reason."""

    parse: Callable[[object], object]
    metavar: str
    help: str
    kind: type = str
    repeatable: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a path")
    return Path(value).expanduser()


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a size; write it like 512M or 2G")
    if isinstance(value, int):
        size = value
    elif match := _SIZE.fullmatch(value.strip()):
        size = int(match[1]) * _UNITS[match[2].upper()]
    else:
        raise ValueError(f"{value!r} is not a size; write it like 512M or 2G")
    if size < _SMALLEST_MEMORY:
        raise ValueError(f"{value!r} is {size} bytes, less than the smallest machine (1M); write it like 512M or 2G")
    return size


def _count(value: object) -> int:
    count = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    return count


def _seconds(value: object) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        seconds = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number of seconds") from None
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{value!r} is not a positive number of seconds")
    return seconds


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"on", "yes", "true", "1"}:
        return True
    if isinstance(value, str) and value.lower() in {"off", "no", "false", "0"}:
        return False
    raise ValueError(f"{value!r} is neither on nor off")


def _arguments(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"{value!r} cannot be split into arguments: {error}") from None
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError(f"{value!r} is not a list of texts")


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            near = nearest(str(value), choices)
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}{near}")
        return value

    return parse


def _readiness(value: object) -> str:
    text = _text(value)
    kind, _, argument = text.partition(":")
    if kind == "console" and argument:
        try:
            re.compile(argument)
        except re.error as error:
            raise ValueError(f"{argument!r} is not a regular expression: {error}") from None
    elif not (kind == "event" and re.fullmatch(r"[A-Z0-9_]+", argument)) and text != "none":
        raise ValueError(f"{text!r} is none of console:PATTERN, event:QMP_EVENT_NAME, none")
    return text


def nearest(word: str, choices: Sequence[str]) -> str:
    """`` (did you mean 'memory'?)`` for a word that resembles a choice, else nothing."""
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _setting(
    default: object,
    parse: Callable[[object], object],
    metavar: str,
    help: str,
    *,
    kind: type = str,
    repeatable: bool = False,
) -> Any:
    return field(default=default, metadata={"setting": Setting(parse, metavar, help, kind, repeatable)})


@dataclass(frozen=True, slots=True, kw_only=True)
class VmConfig:
    """Everything that decides what a machine is. Sizes are bytes, durations seconds, paths absolute once resolved.

    Make changed copies with `replace`; it reads values as an option would (``memory="1G"``).
    """

    image: Path | None = _setting(
        None, _path, "PATH", "base image, never written; repeat the option to run every VM test once per image",
        repeatable=True,
    )  # fmt: skip
    format: str | None = _setting(
        None, _one_of("qcow2", "raw", "qed", "vmdk", "vdi", "vhdx", "vpc"), "NAME",
        "format of the base image: qcow2, raw, qed, vmdk, vdi, vhdx, vpc (default: what qemu-img finds)",
    )  # fmt: skip
    memory: int = _setting(1 << 30, _size, "SIZE", "guest memory, like 512M or 2G (default: 1G)")
    cpus: int = _setting(1, _count, "N", "virtual CPUs (default: 1)", kind=int)
    cpu_model: str | None = _setting(
        None, _text, "NAME", "QEMU CPU model (default: max for x86 and Arm guests, all that the accelerator can do)"
    )
    machine: str | None = _setting(
        None, _text, "TYPE", "QEMU machine type (default: pc for x86 guests, virt for Arm and RISC-V)"
    )
    accel: str = _setting(
        "auto", _one_of("auto", "kvm", "tcg"), "NAME",
        "auto: KVM if it is proved to run guests here, else TCG; kvm: refuse to run without; tcg (default: auto)",
    )  # fmt: skip
    qemu: str | None = _setting(
        None, _text, "BINARY", "QEMU system emulator, a name on PATH or a path (default: the one for this computer)"
    )
    kernel: Path | None = _setting(None, _path, "PATH", "kernel for a direct boot, without the image's bootloader")
    initrd: Path | None = _setting(None, _path, "PATH", "initial RAM disk for a direct boot")
    append: str | None = _setting(None, _text, "TEXT", "kernel command line for a direct boot")
    disk_interface: str = _setting(
        "virtio", _one_of("virtio", "scsi", "sata", "ide", "nvme", "usb"), "NAME",
        "how the guest sees its disk: virtio, scsi, sata, ide, nvme, usb (default: virtio)",
    )  # fmt: skip
    network: str = _setting(
        "user", _one_of("user", "none"), "NAME",
        "user: outward connections through QEMU, nothing listens on the host; none (default: user)",
    )  # fmt: skip
    qemu_args: tuple[str, ...] = _setting(
        (), _arguments, "ARGS", "extra QEMU arguments, split like a shell would; repeatable", repeatable=True
    )
    snapshot: str = _setting(
        "temporary", _one_of("temporary", "overlay"), "MODE",
        "where the guest's writes go: temporary, a file without a name that the kernel reclaims when QEMU ends; "
        "overlay, a named qcow2 file (default: temporary)",
    )  # fmt: skip
    keep: str = _setting(
        "never", _one_of("never", "on-failure", "always"), "WHEN",
        "keep the overlay of a machine in the output folder: never, on-failure, always; its guest is shut down first, "
        "for at most 30 s (default: never)",
    )  # fmt: skip
    output: Path = _setting(
        Path("test-results"), _path, "DIR", "folder for what is kept of a machine (default: test-results)"
    )
    tmpdir: Path | None = _setting(
        None, _path, "DIR", "where the guests' temporary writes go, on a disk with room (default: TMPDIR or /var/tmp)"
    )
    verify: str = _setting(
        "stat", _one_of("stat", "hash", "off"), "HOW",
        "prove the base untouched: stat, by identity, size and times after every test; hash, by SHA-256 at the end of "
        "the run as well; off (default: stat)",
    )  # fmt: skip
    seal: str = _setting(
        "auto", _one_of("auto", "require", "off"), "HOW",
        "confine QEMU with Landlock and its seccomp sandbox: auto, as far as this computer can; require, or refuse to "
        "run; off (default: auto)",
    )  # fmt: skip
    boot_timeout: float = _setting(
        180.0, _seconds, "SECONDS", "how long a guest may take to become ready (default: 180)", kind=float
    )
    ready: str = _setting(
        r"console:login: *$", _readiness, "WHAT",
        "when a guest counts as booted: console:PATTERN, event:QMP_EVENT, none (default: console:login: *$)",
    )  # fmt: skip
    scope: str = _setting(
        "function", _one_of(*SCOPES), "SCOPE",
        "how long the machine of readonly_vm lives: function, class, module, package, session (default: function)",
    )  # fmt: skip
    monitor: bool = _setting(
        False, _switch, "on|off", "give each machine a second monitor for a human, and print how to reach it "
        "(not from xdist's workers)",
        kind=bool,
    )  # fmt: skip
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

    def with_settings(self, given: Mapping[str, Given]) -> Self:
        """A copy with these settings.

        :raises ConfigurationError: an unknown name or an impossible value; the message names the origin.
        """
        changes: dict[str, Any] = {name: parse(name, value) for name, value in given.items()}
        origins = {**self.origins, **{name: value.origin for name, value in given.items()}}
        return replace(self, **changes, origins=MappingProxyType(origins))

    def replace(self, **changes: object) -> Self:
        """A copy with the named settings changed, each read as an option would be.

        :raises ConfigurationError: an unknown name or an impossible value.
        """
        return self.with_settings({name: Given(value, f"replace({name}=…)") for name, value in changes.items()})

    def origin(self, name: str) -> str:
        """Where the value of this setting came from, for messages: ``--vm-memory``, ``pytest.ini: vm_memory``, …"""
        return self.origins.get(name, "the default")

    def check(self) -> None:
        """Look at the settings together.

        :raises ConfigurationError: they contradict each other, or there is nothing to boot.
        """
        if self.image is None and self.kernel is None:
            raise ConfigurationError(
                "no base image: give one with --vm-image=PATH, PYTEST_VM_IMAGE, vm_image in the ini file, "
                "@pytest.mark.vm(image=...) or a vm_image fixture"
            )
        for name, partner in (("initrd", "kernel"), ("append", "kernel"), ("format", "image")):
            if getattr(self, name) is not None and getattr(self, partner) is None:
                raise ConfigurationError(f"{self.origin(name)}: {name} needs {partner}, and there is none")
        if self.keep != "never" and self.snapshot != "overlay":
            raise ConfigurationError(
                f"{self.origin('keep')}: keep={self.keep} needs snapshot=overlay; "
                "a temporary snapshot has no name by which it could be kept"
            )
        if self.keep != "never" and self.image is None:
            raise ConfigurationError(f"{self.origin('keep')}: keep={self.keep} needs an image, and there is none")
        if reason := objection(self.qemu_args):
            raise ConfigurationError(f"{self.origin('qemu_args')}: {reason}")


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {item.name: item.metadata["setting"] for item in fields(VmConfig) if "setting" in item.metadata}
)


def parse(name: str, given: Given) -> object:
    """What was given for one setting, as `VmConfig` holds it. Relative paths are joined to the giver's folder.

    :raises ConfigurationError: no such setting, or an impossible value; the message starts with the origin.
    """
    if name not in SETTINGS:
        raise ConfigurationError(f"{given.origin}: there is no setting {name!r}{nearest(name, tuple(SETTINGS))}")
    if given.value is None and getattr(VmConfig(), name) is None:
        return None
    try:
        value = SETTINGS[name].parse(given.value)
    except ValueError as error:
        raise ConfigurationError(f"{given.origin}: {name}: {error}") from None
    if isinstance(value, Path) and given.folder is not None:
        value = given.folder / value
    return value
