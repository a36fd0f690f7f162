"""Owns what the page of the run gets to know of a machine, as JSON can say it, also from an xdist worker."""

import time
from typing import TYPE_CHECKING, Any

from pytest_readonly_vm.channels.history import History
from pytest_readonly_vm.printable import shown

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.private_network import PrivateNetwork
    from pytest_readonly_vm.machine.vm import VirtualMachine

_LONGEST = 500
_NEVER_ENDED = "pending when the machine ended"


def network_record(network: "PrivateNetwork", *, test: str) -> dict[str, Any]:
    """The life of a private network that is about to end, in the form of a machine's."""
    now = time.time()
    return {
        "name": f"network {network.name}",
        "test": test,
        "scope": "",
        "manner": "network",
        "reason": "",
        "seconds": 0.0,
        "phases": {},
        "accelerator": "",
        "firmware": "",
        "channel": "",
        "image": "",
        "subnet": f"{network.subnet}, {network.subnet6}",
        "started": network.began,
        "ended": now,
        "asked": network.began,
        "handed": network.began,
        "entries": _entries(network.history, now),
    }


def machine_record(vm: "VirtualMachine", *, test: str, scope: str, asked: float, handed: float) -> dict[str, Any]:
    """The life of a machine that has ended. Times are seconds since the epoch, durations seconds.

    :param test: node id of its owner, a test or what its scope is.
    :param asked: when it was asked for.
    :param handed: when its owner got it.
    """
    now = time.time()
    return {
        "name": vm.name,
        "test": test,
        "scope": scope,
        "manner": vm.manner,
        "reason": vm.reason,
        "seconds": vm.boot_seconds,
        "phases": vm.boot_phases,
        "accelerator": vm.accelerator,
        "firmware": vm.firmware,
        "channel": vm.channel,
        "image": str(vm.config.boots),
        "started": now - vm.seconds_since_start(),
        "ended": now,
        "asked": asked,
        "handed": handed,
        "entries": _entries(vm.history, now),
    }


def _entries(history: History, now: float) -> list[dict[str, Any]]:
    return [
        {
            "kind": entry.kind,
            "what": _sayable(entry.what),
            "time": entry.time,
            "seconds": now - entry.time if entry.is_pending else entry.seconds,
            "outcome": _NEVER_ENDED if entry.is_pending else _sayable(entry.outcome),
        }
        for entry in history.entries()
    ]


def _sayable(text: str) -> str:
    """Not too long, and fit to be shown."""
    return shown(text[:_LONGEST])
