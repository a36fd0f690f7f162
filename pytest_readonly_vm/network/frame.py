"""Owns a frame as a test's function sees it: its bytes, and what they say."""

from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address

from pytest_readonly_vm.network.switch.packet import Kind, kind_of, packet

_ADDRESSES = {"ipv4": (12, 4), "ipv6": (8, 16)}
"""Where in a network header the addresses begin, and how many bytes each has."""
_LEAST_OF_TRANSPORT = {"tcp": 20, "udp": 8, "sctp": 12, "icmp": 8, "icmp6": 8}


@dataclass(frozen=True)
class Frame:
    """A frame on its way from one machine to another. What is not in it is 0 or empty.

    Attributes: `data`, all of it, from the Ethernet header on; `source` and `to`, the names of the machines.
    """

    data: bytes
    source: str
    to: str

    @cached_property
    def _packet(self) -> bytes:
        return packet(self.data)

    @cached_property
    def _kind(self) -> Kind:
        return kind_of(self._packet)

    @property
    def protocol(self) -> str:
        """``tcp``, ``udp``, ``icmp``, ``icmp6``, ``arp``, …; of others their number: ``ip-47``, ``0x88b5``."""
        return self._kind.protocol

    @property
    def source_port(self) -> int:
        """Of TCP, UDP or SCTP."""
        return self._kind.source_port

    @property
    def to_port(self) -> int:
        """Of TCP, UDP or SCTP."""
        return self._kind.destination_port

    @property
    def source_address(self) -> str:
        """The IP address that it comes from."""
        return self._address(0)

    @property
    def to_address(self) -> str:
        """The IP address that it goes to."""
        return self._address(1)

    def _address(self, number: int) -> str:
        if self._kind.family not in _ADDRESSES:
            return ""
        offset, size = _ADDRESSES[self._kind.family]
        begin = self._kind.network + offset + number * size
        return str(ip_address(self._packet[begin : begin + size]))

    @property
    def payload(self) -> bytes:
        """What is behind the header of TCP, UDP, SCTP or ICMP; of other frames, behind the EtherType, or IP's header.

        A short frame may have a card's padding in its end.
        """
        kind, whole = self._kind, self._packet
        if not kind.transport:
            header = {"ipv4": 4 * (whole[kind.network] & 15), "ipv6": 40}.get(kind.family, 0) if kind.family else 0
            return whole[kind.network + header :]
        size = _LEAST_OF_TRANSPORT.get(kind.protocol, 0)
        if kind.protocol == "tcp" and len(whole) >= kind.transport + 13:
            size = 4 * (whole[kind.transport + 12] >> 4)
        end = len(whole)
        if kind.family == "ipv4":
            end = kind.network + int.from_bytes(whole[kind.network + 2 : kind.network + 4], "big")
        elif kind.family == "ipv6":
            end = kind.network + 40 + int.from_bytes(whole[kind.network + 4 : kind.network + 6], "big")
        return whole[kind.transport + size : end]

    def __len__(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        way = f"from {self.source} to {self.to}"
        if not self.source_address:
            return f"{self.protocol} {way}, {len(self.data)} bytes"
        ends = (self.source_address, self.source_port), (self.to_address, self.to_port)
        source, to = (
            f"{f'[{address}]' if ':' in address else address}:{port}" if port else address for address, port in ends
        )
        return f"{self.protocol} {way}, {source} > {to}, {len(self.data)} bytes"
