"""Owns what the services of a network know of it, as whoever has made it says: their own addresses, who is on it."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from pytest_readonly_vm.network.switch.mac import mac_of


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that is on the network."""

    name: str
    mac: bytes
    ipv4: IPv4Address
    ipv6: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that is known."""

    mac: bytes
    """The services' own."""
    ipv4: IPv4Address
    ipv6: IPv6Address
    subnet: IPv4Network
    subnet6: IPv6Network
    domain: str
    dhcp: bool
    dns: bool
    mtu: int | None
    router: IPv4Address | None
    boot_file: str
    boot_server: str
    """The one that has that file, as a guest may call it; nothing if nobody has."""
    boot_address: IPv4Address
    """Its address; 0.0.0.0 if there is none."""
    hosts: dict[bytes, Host] = field(default_factory=dict)
    """By their MACs."""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Known":
        """Of what is told, in JSON."""
        hosts = [
            Host(host["name"], mac_of(host["mac"]), IPv4Address(host["ipv4"]), IPv6Address(host["ipv6"]))
            for host in facts["hosts"]
        ]
        return cls(
            mac=mac_of(facts["mac"]),
            ipv4=IPv4Address(facts["ipv4"]),
            ipv6=IPv6Address(facts["ipv6"]),
            subnet=IPv4Network(facts["subnet"]),
            subnet6=IPv6Network(facts["subnet6"]),
            domain=facts["domain"],
            dhcp=facts["dhcp"],
            dns=facts["dns"],
            mtu=facts["mtu"],
            router=IPv4Address(facts["router"]) if facts["router"] else None,
            boot_file=facts["boot_file"],
            boot_server=facts["boot_server"],
            boot_address=IPv4Address(facts["boot_address"] or 0),
            hosts={host.mac: host for host in hosts},
        )
