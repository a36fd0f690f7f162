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
    from pytest_readonly_vm.config.cluster import GuestCluster, cluster
    from pytest_readonly_vm.config.disk import Disk
    from pytest_readonly_vm.config.layer import GuestLayer, layer
    from pytest_readonly_vm.config.settings import VmConfig
    from pytest_readonly_vm.errors import (
        AcceleratorUnavailable,
        BaseImageChanged,
        BootFailed,
        BootTimeout,
        CapsuleRefused,
        ChannelError,
        ChannelLost,
        CommandFailed,
        CommandTimeout,
        ConfigurationError,
        ConnectionLost,
        CutFailed,
        DisplayError,
        DownloadError,
        FaultUnused,
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
        ImageWarning,
        MountFailed,
        NetworkError,
        OutOfSpace,
        QemuDied,
        QemuNotFound,
        QmpError,
        RecordingError,
        SealUnavailable,
        StartFailed,
        SwitchDied,
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
    from pytest_readonly_vm.machine.checkpoints import Checkpoint
    from pytest_readonly_vm.machine.cluster import Cluster, ClusterCheckpoint
    from pytest_readonly_vm.machine.cut import Cut, MountedCut
    from pytest_readonly_vm.machine.cut_search import FailedCut
    from pytest_readonly_vm.machine.fault import Fault
    from pytest_readonly_vm.machine.lab import Lab
    from pytest_readonly_vm.machine.mark import Mark
    from pytest_readonly_vm.machine.moments import Forks
    from pytest_readonly_vm.machine.new_cluster import NewCluster
    from pytest_readonly_vm.machine.private_network import PrivateNetwork
    from pytest_readonly_vm.machine.recording import Recording
    from pytest_readonly_vm.machine.virtual_disk import VirtualDisk
    from pytest_readonly_vm.machine.vm import VirtualMachine
    from pytest_readonly_vm.network.faults import FaultCounts
    from pytest_readonly_vm.network.frame import Frame
    from pytest_readonly_vm.plugin.ladder import NetworkFactory, VmFactory

_WHERE = {
    "command_result": ("CommandResult",),
    "config.cluster": ("GuestCluster", "cluster"),
    "config.disk": ("Disk",),
    "config.layer": ("GuestLayer", "layer"),
    "config.settings": ("VmConfig",),
    "errors": (
        "AcceleratorUnavailable",
        "BaseImageChanged",
        "BootFailed",
        "BootTimeout",
        "CapsuleRefused",
        "ChannelError",
        "ChannelLost",
        "CommandFailed",
        "CommandTimeout",
        "ConfigurationError",
        "ConnectionLost",
        "CutFailed",
        "DisplayError",
        "DownloadError",
        "FaultUnused",
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
        "ImageWarning",
        "MountFailed",
        "NetworkError",
        "OutOfSpace",
        "QemuDied",
        "QemuNotFound",
        "QmpError",
        "RecordingError",
        "SealUnavailable",
        "StartFailed",
        "SwitchDied",
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
    "machine.checkpoints": ("Checkpoint",),
    "machine.moments": ("Forks",),
    "machine.cluster": ("Cluster", "ClusterCheckpoint"),
    "machine.cut": ("Cut", "MountedCut"),
    "machine.cut_search": ("FailedCut",),
    "machine.fault": ("Fault",),
    "machine.lab": ("Lab",),
    "machine.mark": ("Mark",),
    "machine.new_cluster": ("NewCluster",),
    "machine.private_network": ("PrivateNetwork",),
    "machine.virtual_disk": ("VirtualDisk",),
    "machine.recording": ("Recording",),
    "machine.vm": ("VirtualMachine",),
    "network.faults": ("FaultCounts",),
    "network.frame": ("Frame",),
    "plugin.ladder": ("NetworkFactory", "VmFactory"),
}

__all__ = [
    "AcceleratorUnavailable",
    "AllOf",
    "AnyOf",
    "BaseImageChanged",
    "BootFailed",
    "BootTimeout",
    "CapsuleRefused",
    "ChannelAnswers",
    "ChannelError",
    "ChannelLost",
    "Checkpoint",
    "Cluster",
    "ClusterCheckpoint",
    "CommandFailed",
    "CommandResult",
    "CommandTimeout",
    "ConfigurationError",
    "ConnectionLost",
    "Console",
    "ConsolePattern",
    "Cut",
    "CutFailed",
    "Disk",
    "DisplayError",
    "DownloadError",
    "EventSeen",
    "FailedCut",
    "Fault",
    "FaultCounts",
    "FaultUnused",
    "Forks",
    "Frame",
    "Function",
    "GuestBroken",
    "GuestCluster",
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
    "ImageWarning",
    "Lab",
    "Mark",
    "MountFailed",
    "MountedCut",
    "NetworkError",
    "NetworkFactory",
    "NewCluster",
    "OutOfSpace",
    "PortListens",
    "PrivateNetwork",
    "QemuDied",
    "QemuNotFound",
    "Qmp",
    "QmpError",
    "QmpEvent",
    "Readiness",
    "Recording",
    "RecordingError",
    "Screen",
    "SealUnavailable",
    "StartFailed",
    "SwitchDied",
    "SystemdFinished",
    "TransferError",
    "UnitActive",
    "UnitFailed",
    "UnitNotFound",
    "VirtualDisk",
    "VirtualMachine",
    "VmConfig",
    "VmError",
    "VmFactory",
    "WaitTimeout",
    "cluster",
    "layer",
]


def __getattr__(name: str) -> object:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
