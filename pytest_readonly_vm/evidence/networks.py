"""Owns the evidence of a private network: the frames that it remembers, who talked to whom, what was done to it."""

import itertools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.printable import note

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.places import Places
    from pytest_readonly_vm.machine.private_network import PrivateNetwork

NETWORK_PIECE = re.compile(r"network-[A-Za-z0-9._-]{1,100}\.(?:pcapng|txt)")
"""Every name that a file of this evidence can have."""


def name_for(network: "PrivateNetwork", taken: Collection[str]) -> str:
    """What the files of a network are called, without what is behind the dot; those of others are called `taken`."""
    names = (f"network-{network.name[:80]}{f'-{number}' if number > 1 else ''}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def whereabouts(places: "Places", names: "Mapping[PrivateNetwork, str]") -> dict[str, str]:
    """On which networks a machine is, as whom, and where their frames are; nothing of one that is on none.

    :param names: what the files of networks are called, see `name_for`.
    """
    found = [
        f"{network.name} as {member.host} ({member.address.ipv4}), its frames in {names[network]}.pcapng"
        for network, member in places.items()
        if network in names
    ]
    return {"networks": ", ".join(found)} if found else {}


def collect_network(network: "PrivateNetwork", folder: Path, name: str, output_guard: OutputGuard) -> list[Path]:
    """Save what is known of a network in a folder that is there, in files that are called so; the files.

    :raises VmError: the switch has ended.
    :raises OSError: they cannot be written.
    """
    about, frames = folder / f"{name}.txt", folder / f"{name}.pcapng"
    with output_guard.file(about) as file:
        file.write(describe(network).encode() + b"\n")
    with output_guard.file(frames) as file:
        network.write_remembered(file)
    return [about, frames]


def describe(network: "PrivateNetwork") -> str:
    """Who is on a network, what the test did to it, who talked to whom during the test."""
    hosts = ", ".join(network.hosts) or "nobody"
    lines = [f"network {network.name}: {network.subnet}, {network.subnet6}: {hosts}", *network.told()]
    try:
        lines.append(network.talk_table() or "nobody has sent anything")
        if dropped := network.dropped():
            lines.append(dropped)
    except VmError as error:
        lines.append(str(error))
    return note("\n".join(lines))
