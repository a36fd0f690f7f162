"""Owns what a cluster is while it is frozen: its guests at one moment, and who was where on which network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pytest_readonly_vm.start.freeze import Moment
from pytest_readonly_vm.start.template import Reads


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """A machine of a cluster."""

    name: str
    settings: Mapping[str, Any]
    """Those in which it differs from what the cluster was formed with, as JSON can say them."""
    key: str
    """Of the template that it had before the cluster was formed: it has changed with that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """A machine's place on a network."""

    machine: int
    """Which one of the cluster's it is."""
    port: int
    host: str
    mac: str
    ipv4: str
    ipv6: str
    card: int
    interface: str
    told: str | None
    """The names of others that its guest knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """A network of a cluster."""

    name: str
    number: int
    subnet: str
    subnet6: str
    options: Mapping[str, Any]
    """What else it was made with."""
    members: tuple[MemberState, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ClusterState:
    """A frozen cluster."""

    machines: tuple[MachineState, ...]
    networks: tuple[NetworkState, ...]
    reads: Reads
    """What has been read of the host's files to form it."""
    moment: Moment

    def facts(self) -> dict[str, Any]:
        """All but the moment, as JSON can say it."""
        return {
            "machines": [asdict(machine) for machine in self.machines],
            "networks": [asdict(network) for network in self.networks],
            "reads": dict(self.reads),
        }

    @classmethod
    def of(cls, facts: Mapping[str, Any], moment: Moment) -> "ClusterState":
        """Of what `facts` said.

        :raises KeyError, TypeError: it is something else.
        """
        networks = tuple(
            NetworkState(**{**network, "members": tuple(MemberState(**member) for member in network["members"])})
            for network in facts["networks"]
        )
        return cls(tuple(MachineState(**machine) for machine in facts["machines"]), networks, facts["reads"], moment)

    def difference(self) -> str | None:
        """What happened to the files of its disks since it was frozen, or None."""
        return self.moment.difference()

    def close(self) -> None:
        self.moment.close()
