"""Owns IP datagrams in frames, as a station reads and makes them: UDP, and what ICMP takes. Pure.

Checksums of what comes are not looked at: nothing between a guest and here could damage a frame but a test's fault, and
then the frame is for the test. Those of what goes are right, as guests do look.
"""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

Address = IPv4Address | IPv6Address

ICMP, UDP, ICMP6 = 1, 17, 58
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
_HOPS = 255
"""Neighbour discovery takes nothing that has had a hop, and no other protocol minds."""

_IPV4_HEAD = struct.Struct(">BBHHHBBH4s4s")
_IPV6_HEAD = struct.Struct(">IHBB16s16s")


class Datagram(NamedTuple):
    """One that is whole; fragments are none."""

    sender: bytes
    """The MAC that it comes from."""
    source: Address
    target: Address
    protocol: int
    content: bytes
    """What is behind the IP header."""


def datagram_in(frame: bytes) -> Datagram | None:
    """The one in a frame; None if there is none.

    :raises ValueError, struct.error: it is cut short.
    """
    if frame[12:14] == IPV4:
        first, _, size, _, fragment, _, protocol, _, source, target = _IPV4_HEAD.unpack_from(frame, 14)
        head = 4 * (first & 15)
        if first >> 4 != 4 or head < _IPV4_HEAD.size or fragment & 0x3FFF:
            return None
    elif frame[12:14] == IPV6:
        _, size, protocol, _, source, target = _IPV6_HEAD.unpack_from(frame, 14)
        head = _IPV6_HEAD.size
        size += head
    else:
        return None
    if not head <= size <= len(frame) - 14:
        raise ValueError("a datagram that is cut short")
    return Datagram(frame[6:12], ip_address(source), ip_address(target), protocol, frame[14 + head : 14 + size])


def frame_of(datagram: Datagram, receiver: bytes) -> bytes:
    """A frame for a MAC."""
    sender, source, target, protocol, content = datagram
    if source.version == 4:
        size = _IPV4_HEAD.size + len(content)
        parts = [0x45, 0, size, 0, 0x4000, _HOPS, protocol, 0, source.packed, target.packed]
        parts[7] = checksum(_IPV4_HEAD.pack(*parts))
        return receiver + sender + IPV4 + _IPV4_HEAD.pack(*parts) + content
    head = _IPV6_HEAD.pack(6 << 28, len(content), protocol, _HOPS, source.packed, target.packed)
    return receiver + sender + IPV6 + head + content


def checksum(data: bytes) -> int:
    """That of the Internet, RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def summed(source: Address, target: Address, protocol: int, content: bytes, at: int) -> bytes:
    """The content with its checksum, of two bytes, put `at` its place, where zeros are."""
    pseudo = source.packed + target.packed + struct.pack(">IHH", len(content), 0, protocol)
    found = checksum(pseudo + content) or 0xFFFF
    return content[:at] + found.to_bytes(2, "big") + content[at + 2 :]


class UdpMessage(NamedTuple):
    """What a UDP datagram has."""

    source_port: int
    target_port: int
    data: bytes


def udp_in(content: bytes) -> UdpMessage:
    """:raises struct.error: it is cut short."""
    source, target, size, _ = struct.unpack_from(">HHHH", content)
    return UdpMessage(source, target, content[8:size])


def udp_content(source: Address, target: Address, message: UdpMessage) -> bytes:
    """What is behind the IP header."""
    head = struct.pack(">HHHH", message.source_port, message.target_port, 8 + len(message.data), 0)
    return summed(source, target, UDP, head + message.data, 6)
