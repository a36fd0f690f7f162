"""Owns the addresses of one network: which subnets it has, and which address and MAC each card gets. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.network.switch.mac import interface_of, mac_of

_FIRST = 10
"""The host part of the first card's address; those below are the network's own, and a test's."""
_LEAST_IPV6 = 112
"""The longest IPv6 prefix that has room for as many cards as an IPv4 one of 16 bits."""
_SERVER_CARD = 0xFFFF

_ADVERTISED = 64
"""The length of prefixes of which guests make addresses."""


@dataclass(frozen=True, slots=True)
class CardAddress:
    """What a card is called on its network."""

    mac: str
    ipv4: IPv4Address
    ipv6: IPv6Address


@dataclass(frozen=True, slots=True)
class Subnet:
    """The subnets of one network."""

    number: int
    """That of the network, from 0 on: machines may be on several, and each has addresses of its own."""
    ipv4: IPv4Network
    ipv6: IPv6Network

    @classmethod
    def of(cls, number: int, *, ipv4: str | None = None, ipv6: str | None = None) -> "Subnet":
        """Those of the network of a number, where a test does not say others.

        They are of the blocks for private networks (RFC 1918, RFC 4193) that neither QEMU's user network nor the usual
        container engines use.

        :raises NetworkError: what a test says is no subnet, or has room for no machine.
        """
        high, low = divmod(number, 256)
        try:
            subnet = cls(
                number,
                IPv4Network(ipv4 or f"10.{77 + high % 128}.{low}.0/24"),
                IPv6Network(ipv6 or f"fd77:0:0:{number:x}::/64"),
            )
        except ValueError as error:
            raise NetworkError(f"a network cannot have such a subnet: {error}") from None
        if subnet.ipv4.num_addresses <= _FIRST + 1 or subnet.ipv6.prefixlen > _LEAST_IPV6:
            raise NetworkError(
                f"{subnet.ipv4}, {subnet.ipv6}: too small for a network: 28 and {_LEAST_IPV6} bits at most"
            )
        return subnet

    @property
    def server(self) -> tuple[IPv4Address, IPv6Address]:
        """The addresses of the network's own DHCP and DNS."""
        return self.ipv4[1], self.ipv6[1]

    @property
    def server_mac(self) -> str:
        """The MAC of those; no card has it."""
        return _mac(self.number, _SERVER_CARD)

    @property
    def router(self) -> IPv4Address:
        """The address that is kept for a machine which is the others' router."""
        return self.ipv4[2]

    def free(self, card: int, taken: Collection[IPv4Address]) -> IPv4Address:
        """The address of the n-th card, from 0 on; where that is taken the next one that is not, going round.

        :raises NetworkError: there is none left.
        """
        room = min(self.ipv4.num_addresses - 1, self.ipv6.num_addresses) - _FIRST
        addresses = (self.ipv4[_FIRST + (card + further) % room] for further in range(room))
        found = next((address for address in addresses if address not in taken), None)
        if found is None:
            raise NetworkError(f"{self.ipv4} has no address left")
        return found

    def address(self, card: int, ipv4: str, *, advertised: bool = False) -> CardAddress:
        """That of the n-th card, from 0 on, whose MAC no other card has.

        :param ipv4: the one that it is to have; the IPv6 address has the same end.
        :param advertised: whether the guest makes its IPv6 address by itself, of the prefix and its MAC (RFC 4862).
        :raises NetworkError: that is none of this subnet's, or there were too many cards for one more MAC.
        """
        try:
            host = int(IPv4Address(ipv4)) - int(self.ipv4.network_address)
        except ValueError as error:
            raise NetworkError(f"no address for a card: {error}") from None
        if not 0 < host < self.ipv4.num_addresses - 1:
            raise NetworkError(f"{ipv4} is none of a machine's in {self.ipv4}")
        if card >= _SERVER_CARD:
            raise NetworkError(f"{self.ipv4} has had {_SERVER_CARD} cards, and there is no MAC for one more")
        mac = _mac(self.number, card)
        end = host
        if advertised and self.ipv6.prefixlen == _ADVERTISED:
            end = int.from_bytes(interface_of(mac_of(mac)), "big")
        if end >= self.ipv6.num_addresses:
            raise NetworkError(f"{ipv4}: {self.ipv6} has no address with the same end, {host}")
        return CardAddress(mac, self.ipv4[host], self.ipv6[end])


def _mac(number: int, card: int) -> str:
    """One that QEMU's own block has, of a network and a card."""
    return (b"\x52\x54" + number.to_bytes(2, "big") + card.to_bytes(2, "big")).hex(":")
