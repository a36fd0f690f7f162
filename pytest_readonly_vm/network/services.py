"""Owns what a network offers its guests by itself, as a test says it, checked: addresses, names, a boot file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.network.subnet import CardAddress, Subnet

_LONGEST_FILE = 127
"""Bytes, of BOOTP's field for it."""
_DOMAIN = "test"
"""The top-level domain that is never anybody's (RFC 6761)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a network offers."""

    dhcp: bool = False
    dns: bool = False
    gateway: str | None = None
    """The name of the machine that is the others' default router, or an address."""
    boot_file: str | None = None
    tftp: str | None = None
    """The name of the machine that has it, or an address."""

    def __post_init__(self) -> None:
        """:raises NetworkError: they make no sense, or not together."""
        for name, needed in (("boot_file", self.boot_file), ("tftp", self.tftp)):
            if needed is not None and not self.dhcp:
                raise NetworkError(f"{name}={needed!r}: firmware hears of it by DHCP; say dhcp=True as well")
        if self.tftp is not None and self.boot_file is None:
            raise NetworkError(f"tftp={self.tftp!r}: say boot_file as well, which is what firmware fetches from there")
        if self.boot_file is not None and not 0 < len(self.boot_file.encode()) <= _LONGEST_FILE:
            raise NetworkError(f"boot_file={self.boot_file!r}: not from 1 to {_LONGEST_FILE} bytes")

    @property
    def is_any(self) -> bool:
        """Whether the network needs a station of its own."""
        return self.dhcp or self.dns

    def is_router(self, host: str) -> bool:
        """Whether a machine of that name is the others' router."""
        return self.gateway == host

    def router(self, subnet: Subnet, hosts: Mapping[str, CardAddress]) -> CardAddress | None:
        """The addresses of the router: that machine's or those kept for it, so that others need not come later.

        :raises NetworkError: it is to have an address that is none of a machine's on this network.
        """
        if self.gateway is None:
            return None
        if (found := hosts.get(self.gateway)) is not None:
            return found
        return subnet.address(0, _address(self.gateway) or str(subnet.router))

    def facts(self, subnet: Subnet, domain: str, mtu: int | None, hosts: Mapping[str, CardAddress]) -> dict[str, Any]:
        """What a switch is told, see `switch.known`."""
        router = self.router(subnet, hosts)
        tftp = hosts.get(self.tftp or "")
        boot_address = str(tftp.ipv4) if tftp else _address(self.tftp or "")
        ipv4, ipv6 = subnet.server
        return {
            "mac": subnet.server_mac,
            "ipv4": str(ipv4),
            "ipv6": str(ipv6),
            "subnet": str(subnet.ipv4),
            "subnet6": str(subnet.ipv6),
            "domain": domain,
            "dhcp": self.dhcp,
            "dns": self.dns,
            "mtu": mtu,
            "router": str(router.ipv4) if router else None,
            "boot_file": self.boot_file or "",
            "boot_server": boot_address or "",
            "boot_address": boot_address,
            "hosts": [
                {"name": name, "mac": address.mac, "ipv4": str(address.ipv4), "ipv6": str(address.ipv6)}
                for name, address in hosts.items()
            ],
        }


def domain_of(network: str) -> str:
    """The domain of the names on a network."""
    labels = (label.strip("-") for label in re.sub(r"[^a-z0-9.-]", "-", network.lower()).split("."))
    return ".".join([*filter(None, labels), _DOMAIN])


def _address(text: str) -> str | None:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        return None
