"""Owns what can be configured: every setting, its type, default and help, and `VmConfig`, the frozen result.

What a setting is part of is said here and nowhere else; see `Part`. What follows from its value is where that is used.

Pure: reads no environment, no file and no pytest. Where a value came from (its *origin*) travels with it, because every
complaint about a value names the place to mend it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pytest_readonly_vm.config import values as read
from pytest_readonly_vm.config.layer import GuestLayer
from pytest_readonly_vm.config.qemu_args import objection
from pytest_readonly_vm.config.setting import Given, Part, Setting, setting
from pytest_readonly_vm.errors import ConfigurationError

SCOPES = ("function", "class", "module", "package", "session")

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
    image: Path | None = setting(
        _TESTS, None, read.path, "PATH",
        "base image, never written; repeat the option to run every VM test once per image",
        repeatable=True, separator=os.pathsep, reads="the base image",
    )  # fmt: skip
    format: str | None = setting(
        _MACHINE, None, read.one_of("qcow2", "raw", "qed", "vmdk", "vdi", "vhdx", "vpc"), "NAME",
        "format of the base image: qcow2, raw, qed, vmdk, vdi, vhdx, vpc (default: what qemu-img finds)",
    )  # fmt: skip
    memory: int = setting(
        _MACHINE | Part.CAPSULE, 1 << 30, read.size, "SIZE", "guest memory, like 512M or 2G (default: 1G)",
        qemu_options=("m",),
    )  # fmt: skip
    cpus: int = setting(
        _MACHINE | Part.CAPSULE, 1, read.cpus, "N", "virtual CPUs (default: 1)", kind=int, qemu_options=("smp",),
    )  # fmt: skip
    cpu_model: str | None = setting(
        _MACHINE | Part.CAPSULE, None, read.text, "NAME",
        "QEMU CPU model (default: max for x86 and Arm guests, all that the accelerator can do)", qemu_options=("cpu",),
    )  # fmt: skip
    machine: str | None = setting(
        _MACHINE | Part.CAPSULE, None, read.text, "TYPE",
        "QEMU machine type (default: pc for x86 guests, virt for Arm and RISC-V)", qemu_options=("machine", "M"),
    )  # fmt: skip
    accel: str = setting(
        _MACHINE, "auto", read.one_of("auto", "kvm", "tcg"), "NAME",
        "auto: KVM if it is proved to run guests here, else TCG; kvm: refuse to run without; tcg (default: auto)",
        qemu_options=("accel", "enable-kvm"),
    )  # fmt: skip
    qemu: str | None = setting(
        _COMPUTER, None, read.program, "BINARY",
        "QEMU system emulator, a name on PATH or a path (default: the one for this computer)",
    )  # fmt: skip
    kernel: Path | None = setting(
        _MACHINE | Part.CAPSULE | Part.KEY, None, read.path, "PATH",
        "kernel for a direct boot, without the image's bootloader",
        reads=_OTHERS.format("kernel"), qemu_options=("kernel",),
    )  # fmt: skip
    initrd: Path | None = setting(
        _MACHINE | Part.CAPSULE | Part.KEY, None, read.path, "PATH", "initial RAM disk for a direct boot",
        reads=_OTHERS.format("initrd"), qemu_options=("initrd",),
    )  # fmt: skip
    append: str | None = setting(
        _MACHINE | Part.CAPSULE, None, read.text, "TEXT", "kernel command line for a direct boot",
        qemu_options=("append",),
    )  # fmt: skip
    disk_interface: str = setting(
        _MACHINE | Part.CAPSULE, "virtio", read.one_of("virtio", "scsi", "sata", "ide", "nvme", "usb"), "NAME",
        "how the guest sees its disk: virtio, scsi, sata, ide, nvme, usb (default: virtio)",
    )  # fmt: skip
    network: str = setting(
        _MACHINE | Part.CAPSULE, "user", read.one_of("user", "restricted", "none"), "NAME",
        "user: outward connections through QEMU, nothing listens on the host; restricted: a network card of which no "
        "connection leads out; none (default: user)",
    )  # fmt: skip
    qemu_args: tuple[str, ...] = setting(
        _MACHINE | Part.CAPSULE, (), read.arguments, "ARGS",
        "extra QEMU arguments, split like a shell would; repeatable", kind=list, repeatable=True,
    )  # fmt: skip
    snapshot: str = setting(
        _MACHINE, "temporary", read.one_of("temporary", "overlay"), "MODE",
        "where the guest's writes go: temporary, a file without a name that the kernel reclaims when QEMU ends; "
        "overlay, a named qcow2 file (default: temporary)",
    )  # fmt: skip
    keep: str = setting(
        _TESTS, "never", read.one_of("never", "on-failure", "always"), "WHEN",
        "keep the overlay of a machine in the output folder: never, on-failure, always; its guest is shut down first, "
        "for at most 30 s (default: never)",
    )  # fmt: skip
    evidence: str = setting(
        _TESTS, "retain-on-failure", read.one_of("on", "off", "retain-on-failure"), "WHEN",
        "save what is known of the machines of a test in a folder of its own: on, always; retain-on-failure, if it "
        "fails; off (default: retain-on-failure)",
    )  # fmt: skip
    capsule: str = setting(
        _TESTS, "never", read.one_of("never", "on-failure"), "WHEN",
        "save the machines of a test that fails as they are at that moment, for readonly-vm resume: never, on-failure "
        "(default: never)",
    )  # fmt: skip
    output: Path = setting(
        _TESTS, Path("test-results"), read.path, "DIR",
        "folder for evidence, capsules, overlays and whatever else is kept (default: test-results)",
    )  # fmt: skip
    report: Path | None = setting(
        _TESTS, None, read.path, "PATH",
        "write a page that shows the run: machines, boots, commands, tests; a single HTML file",
    )  # fmt: skip
    panic_pattern: tuple[str, ...] = setting(
        _TESTS, (), read.patterns, "REGEX",
        "a line on the serial console that means that the guest has panicked, beside those of Linux, BSD and Windows; "
        "repeatable", repeatable=True,
    )  # fmt: skip
    health: tuple[str, ...] = setting(
        _TESTS, (), read.health, "WHAT",
        "fail a test whose guest shows, by its end: kernel, an oops, warning or hung task; units, a failed unit; "
        "cores, a core dump; journal:REGEX, such a line; repeatable", repeatable=True,
    )  # fmt: skip
    health_allow: tuple[str, ...] = setting(
        _TESTS, (), read.patterns, "REGEX", "what the health gates are not to mind: lines, names of units; repeatable",
        repeatable=True,
    )  # fmt: skip
    tmpdir: Path | None = setting(
        _COMPUTER, None, read.path, "DIR",
        "where the guests' temporary writes go, on a disk with room (default: TMPDIR or /var/tmp)",
    )  # fmt: skip
    verify: str = setting(
        _COMPUTER, "stat", read.one_of("stat", "hash", "off"), "HOW",
        "prove the base untouched: stat, by identity, size and times after every test; hash, by SHA-256 at the end of "
        "the run as well; off (default: stat)",
    )  # fmt: skip
    seal: str = setting(
        _COMPUTER, "auto", read.one_of("auto", "require", "off"), "HOW",
        "confine QEMU with Landlock and its seccomp sandbox: auto, as far as this computer can; require, or refuse to "
        "run; off (default: auto)", qemu_options=("sandbox",),
    )  # fmt: skip
    channel: str = setting(
        Part.SHELL | Part.CAPSULE | Part.KEY, "auto", read.one_of("auto", "agent", "shell", "ssh", "none"), "NAME",
        "how commands reach the guest: agent, the QEMU guest agent; shell, a root shell on a virtio port; ssh; auto, "
        "the first of agent and shell that answers; none (default: auto)",
    )  # fmt: skip
    provision: str = setting(
        _MACHINE | Part.CAPSULE, "auto", read.one_of("auto", "cloud-init", "systemd", "kernel", "none"), "HOW",
        "how an unprepared image gets a channel: cloud-init, by a seed; systemd, by credentials (252 or later); "
        "kernel, by the command line of a direct boot; auto, by what fits; none (default: auto)",
    )  # fmt: skip
    user_data: Path | None = setting(
        _MACHINE | Part.CAPSULE, None, read.path, "PATH", "user data for cloud-init, merged with what the plugin needs",
        reads=_OTHERS.format("user data"),
    )  # fmt: skip
    login: str | None = setting(
        Part.SHELL | Part.KEY, None, read.text, "NAME",
        "user to log in as at the serial console's prompt, for the shell",
    )  # fmt: skip
    password: str | None = setting(Part.SHELL, None, read.secret, "TEXT", "password for login; never shown")
    login_prompt: tuple[str, ...] = setting(
        Part.SHELL | Part.KEY, (), read.patterns, "REGEX",
        "a login prompt on the serial console, beside those that end with login:; repeatable", repeatable=True,
    )  # fmt: skip
    password_prompt: tuple[str, ...] = setting(
        Part.SHELL | Part.KEY, (), read.patterns, "REGEX",
        "a prompt for a password there, beside those that are known; repeatable", repeatable=True,
    )  # fmt: skip
    boot_timeout: float = setting(
        Part.SHELL, 90.0, read.seconds, "SECONDS",
        "how long a guest may take to become ready, times timeout-factor (default: 90)", kind=float,
    )  # fmt: skip
    test_timeout: float = setting(
        _TESTS, 120.0, read.seconds, "SECONDS",
        "how long a test with a machine may take that has no timeout of its own, boots apart, times timeout-factor "
        "(default: 120)", kind=float,
    )  # fmt: skip
    timeout_factor: str = setting(
        Part.SHELL, "auto", read.factor_or("auto"), "FACTOR",
        "by how much guests are slower here than on the computers that these two times are meant for; auto: 1 with "
        "KVM, 4 with TCG (default: auto)",
    )  # fmt: skip
    ready: object = setting(
        Part.SHELL | Part.KEY, "auto", read.readiness, "WHAT",
        "when a guest counts as booted: auto, a channel answers and its init has finished, or a login prompt shows; "
        "channel, agent, shell, ssh, systemd, port:N, unit:NAME, console:PATTERN, event:QMP_EVENT, none "
        "(default: auto)",
    )  # fmt: skip
    start: str = setting(
        Part.SHELL, "auto", read.one_of("auto", "cold", "clone"), "HOW",
        "how a machine comes to be: cold, each boots; clone, the first boots and is frozen, each is a fresh process "
        "that goes on from there; auto, clone where that is possible and faster (default: auto)",
    )  # fmt: skip
    layers: tuple[GuestLayer, ...] = setting(
        _TESTS, (), read.layers, "MODULE:NAME",
        "prepared states of the guest that a test starts from, each upon the one before",
        repeatable=True, separator=" ",
    )  # fmt: skip
    machine_id: str = setting(
        _TESTS, "keep", read.one_of("keep", "new"), "WHAT",
        "the machine-id of a clone: keep, that of the guest which it is a copy of; new (default: keep)",
    )  # fmt: skip
    prove_pristine: bool = setting(
        _TESTS, False, read.switch, "on|off",
        "leave a mark in RAM and on the disk of each machine, and fail if a machine has one when it is handed over",
        kind=bool,
    )  # fmt: skip
    prefetch: str = setting(
        _TESTS, "auto", read.whole_number_or("auto"), "N",
        "start the next tests' clones while a test runs: so many ahead, 0 for none; auto: two, one in xdist's "
        "workers, none where there is one CPU (default: auto)",
    )  # fmt: skip
    cache: Path | None = setting(
        Part.SHELL, None, read.path, "DIR",
        "folder for frozen guests, from which later runs start (default: in the user's cache)",
    )  # fmt: skip
    cache_size: int = setting(
        Part.SHELL, 10 << 30, read.size, "SIZE", "how much the frozen guests may take there (default: 10G)",
    )  # fmt: skip
    no_cache: bool = setting(
        Part.SHELL, False, read.switch, "on|off", "keep no frozen guests for later runs", kind=bool,
    )  # fmt: skip
    budget: str = setting(
        _COMPUTER, "auto", read.budget, "SIZE[,CPUS]",
        "what the machines of all your test runs on this computer may have together, such as 12G or 12G,8; who finds "
        "no room waits; auto, four fifths of the memory and four guest CPUs for each CPU; off (default: auto)",
    )  # fmt: skip
    reset: str = setting(
        _TESTS, "never", read.one_of("never", "each-test"), "WHEN",
        "before a test, set a machine that others have used back to its start: never, each-test (default: never)",
    )  # fmt: skip
    scope: str = setting(
        _TESTS, "function", read.one_of(*SCOPES), "SCOPE",
        "how long the machine of readonly_vm lives: function, class, module, package, session (default: function)",
    )  # fmt: skip
    monitor: bool = setting(
        _TESTS, False, read.switch, "on|off",
        "give each machine a second monitor for a human, and print how to reach it (not from xdist's workers)",
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
