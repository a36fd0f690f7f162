"""Owns the choice of a guest's architecture where the user leaves it open, and the refusal of what is for another."""

from collections.abc import Callable
from dataclasses import dataclass

from pytest_readonly_vm.config.architectures import runs
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.host.qemu_binary import arch_of_emulator, host_arch
from pytest_readonly_vm.image.disk_arch import archs_of
from pytest_readonly_vm.image.kernel_file import kernel_arch
from pytest_readonly_vm.image.layout import DiskLayout


@dataclass(frozen=True, slots=True)
class _Evidence:
    """For what something that is booted is, if that shows."""

    what: str
    """Which setting it is, with its value and where that is from."""
    archs: dict[str, str]
    """By architecture, what tells of it."""


def choose_arch(
    config: VmConfig, *, layout: Callable[[], DiskLayout | None], cd: Callable[[], DiskLayout | None] = lambda: None
) -> str:
    """The architecture of such a machine in QEMU's words.

    That of ``arch``, or of the emulator ``qemu``, or else what the kernel is for, or without one the image's disk, or a
    CD beside a disk that tells nothing; what they do not tell is this computer's.

    :param layout: looks at the disk, or at the CD that the image is; called if it matters.
    :param cd: looks at the CD that is beside it.
    :raises ConfigurationError: the kernel or the image is for another; or ``arch`` and ``qemu`` contradict each other.
    :raises ImageError: the image cannot be read.
    """
    chosen, by = _asked_for(config)
    disk = layout() if config.kernel is None else None
    has_boot_code = disk is not None and disk.has_boot_code
    evidence = _of_kernel(config) if disk is None else _of_disk(config, disk, "image" if config.image else "cdrom")
    if disk is not None and not evidence and not has_boot_code and (other := cd()) is not None:
        has_boot_code = other.has_boot_code
        evidence = _of_disk(config, other, "cdrom")
    if chosen is None:
        if evidence:
            return _emulator_of(evidence.archs)
        return "x86_64" if has_boot_code else host_arch()
    if has_boot_code and runs(chosen, "i386"):
        return chosen  # what loaders there are for others beside it
    if evidence and not any(runs(chosen, arch) for arch in evidence.archs):
        arch, telling = next(iter(evidence.archs.items()))
        raise ConfigurationError(
            f"{evidence.what} is for {arch}, as {telling} says, and {by}: say arch={arch}, or neither arch nor qemu"
        )
    return chosen


def _asked_for(config: VmConfig) -> tuple[str | None, str]:
    """What the user says that it is, and how that was said."""
    emulated = arch_of_emulator(config.qemu) if config.qemu else None
    by_emulator = f"{config.qemu} (from {config.origin('qemu')}) runs guests of {emulated}"
    if config.arch == "auto":
        return emulated, by_emulator
    by = f"arch is {config.arch} (from {config.origin('arch')})"
    if emulated and not runs(emulated, config.arch):
        raise ConfigurationError(f"{by}, and {by_emulator}: give one of them, or two that fit")
    return config.arch, by


def _of_kernel(config: VmConfig) -> _Evidence | None:
    if config.kernel is None:
        return None
    what = f"kernel {config.kernel} (from {config.origin('kernel')})"
    try:
        arch = kernel_arch(config.kernel)
    except OSError as error:
        raise ConfigurationError(f"{what}: {error.strerror}") from None
    return _Evidence(what, {arch: "its header"}) if arch else None


def _of_disk(config: VmConfig, disk: DiskLayout, name: str) -> _Evidence | None:
    if not (archs := archs_of(disk)):
        return None
    return _Evidence(f"{name} {getattr(config, name)} (from {config.origin(name)})", archs)


def _emulator_of(archs: dict[str, str]) -> str:
    """Of several, this computer's, which is the quickest. That of x86_64 runs all that i386's does."""
    here = host_arch()
    found = here if here in archs else next(iter(archs))
    return "x86_64" if found == "i386" else found
