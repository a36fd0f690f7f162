"""Owns the making of frames as cards send them: Ethernet, with what a test wants in it."""

import struct
from ipaddress import IPv4Address

BROADCAST = b"\xff" * 6
_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17}


def mac(number: int) -> bytes:
    """The address of the n-th card of a test."""
    return bytes((0x52, 0x54, 0, 0, 0, number))


def frame(to: bytes, source: bytes, payload: bytes = b"", *, ethertype: int = 0x88B5) -> bytes:
    """By default of an EtherType that is for experiments."""
    return to + source + ethertype.to_bytes(2, "big") + payload


def ipv4(to: bytes, source: bytes, payload: bytes, *, protocol: str, addresses: tuple[str, str]) -> bytes:
    """A datagram of IPv4; `addresses` are those from and to which it goes."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, _NUMBERS[protocol], 0)
    head += b"".join(IPv4Address(one).packed for one in addresses)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return frame(to, source, head[:10] + checksum.to_bytes(2, "big") + head[12:] + payload, ethertype=0x0800)


def udp(
    to: bytes, source: bytes, payload: bytes = b"", *, ports: tuple[int, int] = (40000, 7), addresses: tuple[str, str]
) -> bytes:
    """A datagram of UDP, without a checksum; `ports` are those from and to which it goes."""
    segment = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    return ipv4(to, source, segment, protocol="udp", addresses=addresses)


def tcp(
    to: bytes, source: bytes, payload: bytes = b"", *, ports: tuple[int, int] = (40000, 80), addresses: tuple[str, str]
) -> bytes:
    """A segment of TCP as in the midst of a connection, without a checksum."""
    segment = struct.pack(">HHIIBBHHH", *ports, 1, 1, 0x50, 0x18, 1000, 0, 0) + payload
    return ipv4(to, source, segment, protocol="tcp", addresses=addresses)
