"""Owns the bytes of one frame on its way: what it is, cheaply, for whoever has many of them.

A packet is a frame behind its length, four bytes, the highest first, as QEMU's ``-netdev socket`` has them on a stream
(https://gitlab.com/qemu-project/qemu/-/blob/master/net/socket.c).
"""

from typing import NamedTuple

HEAD = 4
"""Bytes before the frame."""
LARGEST = 65536 + 4096
"""Bytes of a frame: what QEMU takes at most, NET_BUFSIZE."""
SMALLEST = 14
"""Those of its addresses and type."""
TO, FROM = slice(HEAD, HEAD + 6), slice(HEAD + 6, HEAD + 12)
"""Where its addresses are in a packet."""

_TAGS = (b"\x81\x00", b"\x88\xa8")
_IPV4, _IPV6, _ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}
_OTHERS = {b"\x80\x35": "rarp", b"\x88\xcc": "lldp", b"\x88\x8e": "eapol"}
NAMED = frozenset((*_PROTOCOLS.values(), "arp"))
"""The protocols that are called by a name; of others a guest can make up thousands."""
_WITH_PORTS = ("tcp", "udp", "sctp")
_EXTENSIONS = (0, 43, 60, 135)
_MOST_EXTENSIONS = 8
_MOST_TAGS = 4


class Kind(NamedTuple):
    """What a frame is, as far as it says so itself; a frame may be cut short, or lie."""

    protocol: str
    """``tcp``, ``udp``, ``icmp``, ``icmp6``, ``arp``, …; of others the number that it has: ``ip-47``, ``0x88b5``."""
    family: str
    """``ipv4``, ``ipv6``, or nothing."""
    source_port: int = 0
    destination_port: int = 0
    network: int = 0
    """Where in the packet its network header begins."""
    transport: int = 0
    """Where that of its transport; 0 if it has none, as the later fragments of a datagram have not."""


def packet(frame: bytes) -> bytes:
    """A frame as it goes over a stream."""
    return len(frame).to_bytes(HEAD, "big") + frame


def kind_of(packet: bytes) -> Kind:
    """What it carries."""
    at = HEAD + 12
    for _ in range(_MOST_TAGS):
        if packet[at : at + 2] not in _TAGS:
            break
        at += 4
    ethertype = packet[at : at + 2]
    at += 2
    if ethertype == _IPV4 and len(packet) >= at + 20:
        is_later_fragment = int.from_bytes(packet[at + 6 : at + 8], "big") & 0x1FFF
        number, transport = packet[at + 9], 0 if is_later_fragment else at + 4 * (packet[at] & 15)
        return _of_ip("ipv4", number, packet, at, transport)
    if ethertype == _IPV6 and len(packet) >= at + 40:
        number, transport = packet[at + 6], at + 40
        for _ in range(_MOST_EXTENSIONS):
            if number not in _EXTENSIONS or len(packet) < transport + 8:
                break
            number, transport = packet[transport], transport + 8 * (packet[transport + 1] + 1)
        return _of_ip("ipv6", number, packet, at, transport)
    if ethertype == _ARP:
        return Kind("arp", "", network=at)
    return Kind(_OTHERS.get(ethertype) or f"0x{ethertype.hex()}", "", network=at)


def _of_ip(family: str, number: int, packet: bytes, network: int, transport: int) -> Kind:
    protocol = _PROTOCOLS.get(number, f"ip-{number}")
    ports = (0, 0)
    if transport and protocol in _WITH_PORTS and len(packet) >= transport + 4:
        ports = (
            int.from_bytes(packet[transport : transport + 2], "big"),
            int.from_bytes(packet[transport + 2 : transport + 4], "big"),
        )
    return Kind(protocol, family, *ports, network=network, transport=transport)
