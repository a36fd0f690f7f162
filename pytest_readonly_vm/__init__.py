"""Tests inside virtual machines: every test a pristine QEMU guest, the base image provably untouched.

The public names. They are looked up when first used, so that pytest loads the plugin without loading asyncio.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pytest_readonly_vm.channels.console import Console
    from pytest_readonly_vm.channels.qmp import Qmp, QmpEvent
    from pytest_readonly_vm.channels.screen import Screen
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
    from pytest_readonly_vm.plugin.fixtures import VmFactory

_WHERE = {
    **dict.fromkeys(
        (
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
        "pytest_readonly_vm.guest.readiness",
    ),
    "Screen": "pytest_readonly_vm.channels.screen",
    "Console": "pytest_readonly_vm.channels.console",
    "Lab": "pytest_readonly_vm.machine.lab",
    "Qmp": "pytest_readonly_vm.channels.qmp",
    "QmpEvent": "pytest_readonly_vm.channels.qmp",
    "Checkpoint": "pytest_readonly_vm.machine.checkpoints",
    "Forks": "pytest_readonly_vm.machine.checkpoints",
    "VirtualMachine": "pytest_readonly_vm.machine.vm",
    "VmFactory": "pytest_readonly_vm.plugin.fixtures",
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
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
