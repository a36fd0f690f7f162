"""Owns what can be configured: every setting, its type and default, and `VmConfig`, the frozen result.

What a setting is part of is said here and nowhere else; see `Part`. What follows from its value is where that is used.

Pure: reads no environment, no file and no pytest. Where a value came from (its *origin*) travels with it, because every
complaint about a value names the place to mend it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pytest_readonly_vm.config import disk as given_disk
from pytest_readonly_vm.config import image_reference as given_image
from pytest_readonly_vm.config import values as read
from pytest_readonly_vm.config.architectures import architecture
from pytest_readonly_vm.config.cluster import GuestCluster
from pytest_readonly_vm.config.disk import Disk
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.layer import GuestLayer
from pytest_readonly_vm.config.qemu_args import objection
from pytest_readonly_vm.config.setting import Given, Part, Setting, setting
from pytest_readonly_vm.config.table import SCOPES
from pytest_readonly_vm.errors import ConfigurationError

_TESTS = Part(0)  # of nothing else
_MACHINE = Part.BOOT | Part.SHELL  # what boots, by what, and where its writes go
_COMPUTER = _MACHINE | Part.RESUME
_OTHERS = "the {} that machines are started with"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmConfig:
    """Everything that decides what a machine is. Sizes are bytes, durations seconds, paths absolute once resolved.

    Make changed copies with `replace`; it reads values as an option would (``memory="1G"``).
    """

    # Commands have it as an argument of their own.
    image: Path | ImageReference | None = setting(
        Part.START, None, given_image.image, reads="the base image", locate=given_image.located_image
    )
    format: str | None = setting(_MACHINE, None, read.one_of(*given_disk.FORMATS))
    cdrom: Path | ImageReference | None = setting(_MACHINE, None, given_image.image, reads=_OTHERS.format("CD"))
    memory: int = setting(_MACHINE | Part.CAPSULE, 1 << 30, read.size, qemu_options=("m",))
    cpus: int = setting(_MACHINE | Part.CAPSULE, 1, read.cpus, qemu_options=("smp",))
    cpu_model: str | None = setting(_MACHINE | Part.CAPSULE, None, read.text, qemu_options=("cpu",))
    machine: str | None = setting(_MACHINE | Part.CAPSULE, None, read.text, qemu_options=("machine", "M"))
    firmware: str = setting(
        _MACHINE | Part.CAPSULE | Part.KEY, "auto", read.one_of("auto", "bios", "uefi", "uefi-secure")
    )
    tpm: bool = setting(_MACHINE | Part.CAPSULE, False, read.switch)
    accel: str = setting(_MACHINE, "auto", read.one_of("auto", "kvm", "tcg"), qemu_options=("accel", "enable-kvm"))
    qemu: str | None = setting(_COMPUTER, None, read.program)
    arch: str = setting(_MACHINE, "auto", architecture)
    kernel: Path | None = setting(
        _MACHINE | Part.CAPSULE | Part.KEY, None, read.path, reads=_OTHERS.format("kernel"), qemu_options=("kernel",)
    )
    initrd: Path | None = setting(
        _MACHINE | Part.CAPSULE | Part.KEY, None, read.path, reads=_OTHERS.format("initrd"), qemu_options=("initrd",)
    )
    append: str | None = setting(_MACHINE | Part.CAPSULE, None, read.text, qemu_options=("append",))
    disk_interface: str = setting(_MACHINE | Part.CAPSULE, "virtio", read.one_of(*given_disk.INTERFACES))
    disks: tuple[Disk, ...] = setting(_MACHINE, (), given_disk.disks, locate=given_disk.located_disks)
    network: str = setting(_MACHINE | Part.CAPSULE, "user", read.one_of("user", "restricted", "none"))
    networks: tuple[str, ...] = setting(_TESTS, (), read.names)
    qemu_args: tuple[str, ...] = setting(_MACHINE | Part.CAPSULE, (), read.arguments)
    snapshot: str = setting(_MACHINE, "temporary", read.one_of("temporary", "overlay"))
    keep: str = setting(_TESTS, "never", read.one_of("never", "on-failure", "always"))
    evidence: str = setting(_TESTS, "retain-on-failure", read.one_of("on", "off", "retain-on-failure"))
    capsule: str = setting(_TESTS, "never", read.one_of("never", "on-failure"))
    output: Path = setting(_TESTS, Path("test-results"), read.path)
    report: Path | None = setting(_TESTS, None, read.path)
    panic_pattern: tuple[str, ...] = setting(_TESTS, (), read.patterns)
    health: tuple[str, ...] = setting(_TESTS, (), read.health)
    health_allow: tuple[str, ...] = setting(_TESTS, (), read.patterns)
    tmpdir: Path | None = setting(_COMPUTER, None, read.path)
    verify: str = setting(_COMPUTER, "stat", read.one_of("stat", "hash", "off"))
    seal: str = setting(_COMPUTER, "auto", read.one_of("auto", "require", "off"), qemu_options=("sandbox",))
    channel: str = setting(
        Part.SHELL | Part.CAPSULE | Part.KEY, "auto", read.one_of("auto", "agent", "shell", "ssh", "none")
    )
    provision: str = setting(
        _MACHINE | Part.CAPSULE, "auto", read.one_of("auto", "cloud-init", "systemd", "kernel", "none")
    )
    user_data: Path | None = setting(_MACHINE | Part.CAPSULE, None, read.path, reads=_OTHERS.format("user data"))
    login: str | None = setting(Part.SHELL | Part.KEY, None, read.text)
    password: str | None = setting(Part.SHELL, None, read.secret)
    login_prompt: tuple[str, ...] = setting(Part.SHELL | Part.KEY, (), read.patterns)
    password_prompt: tuple[str, ...] = setting(Part.SHELL | Part.KEY, (), read.patterns)
    boot_timeout: float = setting(Part.SHELL, 90.0, read.seconds)
    test_timeout: float = setting(_TESTS, 120.0, read.seconds)
    timeout_factor: str = setting(Part.SHELL, "auto", read.factor_or("auto"))
    ready: object = setting(Part.SHELL | Part.KEY, "auto", read.readiness)
    start: str = setting(Part.SHELL, "auto", read.one_of("auto", "cold", "clone"))
    layers: tuple[GuestLayer, ...] = setting(Part.START, (), read.layers)
    cluster: GuestCluster | None = setting(Part.START, None, read.cluster)
    machine_id: str = setting(_TESTS, "keep", read.one_of("keep", "new"))
    prove_pristine: bool = setting(_TESTS, False, read.switch)
    prefetch: str = setting(_TESTS, "auto", read.whole_number_or("auto"))
    cache: Path | None = setting(Part.SHELL, None, read.path)
    cache_size: int = setting(Part.SHELL, 10 << 30, read.size)
    cache_from: Path | str | None = setting(Part.SHELL, None, read.folder_or_url)
    cache_signers: Path | None = setting(Part.SHELL, None, read.path)
    cache_unsigned: bool = setting(Part.SHELL, False, read.switch)
    image_store: Path | None = setting(_COMPUTER, None, read.path)
    image_store_size: int = setting(_COMPUTER, 50 << 30, read.size)
    image_timeout: float = setting(_COMPUTER, 15.0, read.seconds)
    no_cache: bool = setting(Part.SHELL, False, read.switch)
    budget: str = setting(_COMPUTER, "auto", read.budget)
    reset: str = setting(_TESTS, "never", read.one_of("never", "each-test"))
    scope: str = setting(_TESTS, "function", read.one_of(*SCOPES))
    monitor: bool = setting(_TESTS, False, read.switch)
    shard: str | None = setting(_TESTS, None, read.shard)
    durations: Path | None = setting(_TESTS, None, read.path)
    store_durations: bool = setting(_TESTS, False, read.switch)
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

    @property
    def boots(self) -> Path | ImageReference | None:
        """What a machine boots, for people: its image, else its kernel, else its CD."""
        return self.image or self.kernel or self.cdrom

    def origin(self, name: str) -> str:
        """Where the value of this setting came from, for messages: ``--vm-memory``, ``pytest.ini: vm_memory``, …"""
        return self.origins.get(name, "the default")

    def check(self) -> None:
        """Look at the settings together.

        :raises ConfigurationError: they contradict each other, or there is nothing to boot.
        """
        if self.boots is None:
            raise ConfigurationError(
                "no base image: give one with --vm-image=PATH, PYTEST_VM_IMAGE, vm_image in the ini file, "
                "@pytest.mark.vm(image=...) or a vm_image fixture; the README says where one comes from"
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
        if self.cache_from is not None and self.no_cache:
            raise ConfigurationError(
                f"{self.origin('cache_from')}: what cache_from brings goes into the cache, and there is none "
                f"(no_cache, from {self.origin('no_cache')})"
            )
        if reason := objection(self.qemu_args, _DECIDED):
            raise ConfigurationError(f"{self.origin('qemu_args')}: {reason}")


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {item.name: item.metadata["setting"] for item in fields(VmConfig) if "setting" in item.metadata}
)
FILES = tuple(name for name, declared in SETTINGS.items() if declared.reads)
"""Those that name a file which machines are made of."""

_DECIDED = {option: name for name, declared in SETTINGS.items() for option in declared.qemu_options}


def settings_in(part: Part) -> tuple[str, ...]:
    """The names of those that are part of something."""
    return tuple(name for name, declared in SETTINGS.items() if part in declared.parts)


def parse(name: str, given: Given) -> object:
    """What was given for one setting, as `VmConfig` holds it; see `Setting.read`.

    :raises ConfigurationError: no such setting, or an impossible value; the message starts with the origin.
    """
    if name not in SETTINGS:
        raise ConfigurationError(f"{given.origin}: there is no setting {name!r}{read.nearest(name, tuple(SETTINGS))}")
    try:
        return SETTINGS[name].read(given)
    except ValueError as error:
        raise ConfigurationError(f"{given.origin}: {name}: {error}") from None
