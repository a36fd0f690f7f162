"""Tests inside virtual machines: every test a pristine QEMU guest, the base image provably untouched.

The public names. Each is looked up when first used, as pytest loads this in every project that has the plugin.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_readonly_vm.channels.console import Console
    from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
    from pytest_readonly_vm.channels.screen import Screen
    from pytest_readonly_vm.command_result import CommandResult
    from pytest_readonly_vm.config.layer import GuestLayer, layer
    from pytest_readonly_vm.config.settings import VmConfig
    from pytest_readonly_vm.errors import (
        AcceleratorUnavailable,
        BaseImageChanged,
        BootTimeout,
        CapsuleRefused,
        ChannelError,
        ChannelLost,
        CommandFailed,
        CommandTimeout,
        ConfigurationError,
        ConnectionLost,
        DisplayError,
        GuestBroken,
        GuestDied,
        GuestLacks,
        GuestPanicked,
        GuestPaused,
        GuestReset,
        GuestShutDown,
        GuestUnhealthy,
        GuestWarning,
        HostError,
        ImageError,
        OutOfSpace,
        QemuDied,
        QemuNotFound,
        QmpError,
        SealUnavailable,
        StartFailed,
        TransferError,
        UnitFailed,
        UnitNotFound,
        VmError,
        WaitTimeout,
    )
    from pytest_readonly_vm.guest.readiness import (
        AllOf,
        AnyOf,
        ChannelAnswers,
        ConsolePattern,
        EventSeen,
        Function,
        PortListens,
        Readiness,
        SystemdFinished,
        UnitActive,
    )
    from pytest_readonly_vm.machine.checkpoints import Checkpoint, Forks
    from pytest_readonly_vm.machine.lab import Lab
    from pytest_readonly_vm.machine.vm import VirtualMachine
    from pytest_readonly_vm.plugin.ladder import VmFactory

_WHERE = {
    "command_result": ("CommandResult",),
    "config.layer": ("GuestLayer", "layer"),
    "config.settings": ("VmConfig",),
    "errors": (
        "AcceleratorUnavailable",
        "BaseImageChanged",
        "BootTimeout",
        "CapsuleRefused",
        "ChannelError",
        "ChannelLost",
        "CommandFailed",
        "CommandTimeout",
        "ConfigurationError",
        "ConnectionLost",
        "DisplayError",
        "GuestBroken",
        "GuestDied",
        "GuestLacks",
        "GuestPanicked",
        "GuestPaused",
        "GuestReset",
        "GuestShutDown",
        "GuestUnhealthy",
        "GuestWarning",
        "HostError",
        "ImageError",
        "OutOfSpace",
        "QemuDied",
        "QemuNotFound",
        "QmpError",
        "SealUnavailable",
        "StartFailed",
        "TransferError",
        "UnitFailed",
        "UnitNotFound",
        "VmError",
        "WaitTimeout",
    ),
    "channels.console": ("Console",),
    "channels.qmp": ("Qmp", "QmpEvent"),
    "channels.screen": ("Screen",),
    "guest.readiness": (
        "AllOf",
        "AnyOf",
        "ChannelAnswers",
        "ConsolePattern",
        "EventSeen",
        "Function",
        "PortListens",
        "Readiness",
        "SystemdFinished",
        "UnitActive",
    ),
    "machine.checkpoints": ("Checkpoint", "Forks"),
    "machine.lab": ("Lab",),
    "machine.vm": ("VirtualMachine",),
    "plugin.ladder": ("VmFactory",),
}

__all__ = [
    "AcceleratorUnavailable",
    "AllOf",
    "AnyOf",
    "BaseImageChanged",
    "BootTimeout",
    "CapsuleRefused",
    "ChannelAnswers",
    "ChannelError",
    "ChannelLost",
    "Checkpoint",
    "CommandFailed",
    "CommandResult",
    "CommandTimeout",
    "ConfigurationError",
    "ConnectionLost",
    "Console",
    "ConsolePattern",
    "DisplayError",
    "EventSeen",
    "Forks",
    "Function",
    "GuestBroken",
    "GuestDied",
    "GuestLacks",
    "GuestLayer",
    "GuestPanicked",
    "GuestPaused",
    "GuestReset",
    "GuestShutDown",
    "GuestUnhealthy",
    "GuestWarning",
    "HostError",
    "ImageError",
    "Lab",
    "OutOfSpace",
    "PortListens",
    "QemuDied",
    "QemuNotFound",
    "Qmp",
    "QmpError",
    "QmpEvent",
    "Readiness",
    "Screen",
    "SealUnavailable",
    "StartFailed",
    "SystemdFinished",
    "TransferError",
    "UnitActive",
    "UnitFailed",
    "UnitNotFound",
    "VirtualMachine",
    "VmConfig",
    "VmError",
    "VmFactory",
    "WaitTimeout",
    "layer",
]


def __getattr__(name: str) -> object:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
