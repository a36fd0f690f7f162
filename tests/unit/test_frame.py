"""A frame says what is in it, also one that is cut short or lies."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from pytest_readonly_vm import Frame

FOUR = IP(src="10.77.0.10", dst="10.77.0.11")
SIX = IPv6(src="fd77::a", dst="fd77::b")


def frame(layers: Packet) -> Frame:
    return Frame(bytes(Ether(src="52:54:00:00:00:01", dst="52:54:00:00:00:02") / layers), "one", "two")


@pytest.mark.parametrize(
    ("layers", "protocol", "ends", "payload"),
    [
        (FOUR / UDP(sport=1, dport=53) / b"what", "udp", ("10.77.0.10", 1, "10.77.0.11", 53), b"what"),
        (
            FOUR / TCP(sport=9, dport=80, options=[("MSS", 9)]) / b"GET",
            "tcp",
            ("10.77.0.10", 9, "10.77.0.11", 80),
            b"GET",
        ),
        (SIX / TCP(sport=9, dport=80) / b"GET", "tcp", ("fd77::a", 9, "fd77::b", 80), b"GET"),
        (SIX / IPv6ExtHdrDestOpt() / UDP(sport=9, dport=8) / b"x", "udp", ("fd77::a", 9, "fd77::b", 8), b"x"),
        (
            Dot1Q(vlan=7) / FOUR / UDP(sport=1, dport=2) / b"tagged",
            "udp",
            ("10.77.0.10", 1, "10.77.0.11", 2),
            b"tagged",
        ),
        (FOUR / ICMP() / b"ping", "icmp", ("10.77.0.10", 0, "10.77.0.11", 0), b"ping"),
        (IP(src="1.1.1.1", dst="2.2.2.2", frag=100, proto=17) / b"rest", "udp", ("1.1.1.1", 0, "2.2.2.2", 0), b"rest"),
        (IP(src="1.1.1.1", dst="2.2.2.2", proto=47) / b"tunnel", "ip-47", ("1.1.1.1", 0, "2.2.2.2", 0), b"tunnel"),
    ],
)
def test_what_is_in_a_frame(layers: Packet, protocol: str, ends: tuple[str, int, str, int], payload: bytes) -> None:
    seen = frame(layers)
    assert seen.protocol == protocol
    assert (seen.source_address, seen.source_port, seen.to_address, seen.to_port) == ends
    assert seen.payload == payload


def test_a_frame_in_words() -> None:
    assert str(frame(SIX / UDP(sport=9, dport=53))) == "udp from one to two, [fd77::a]:9 > [fd77::b]:53, 62 bytes"
    assert str(frame(ARP())) == "arp from one to two, 42 bytes"


def test_padding_is_no_payload() -> None:
    data = frame(FOUR / UDP(sport=1, dport=2) / b"x").data
    assert Frame(data + bytes(60 - len(data)), "one", "two").payload == b"x"


def test_no_bytes_are_too_odd() -> None:
    chance = random.Random(14)
    good = [
        frame(layers).data
        for layers in (FOUR / TCP() / b"x", SIX / IPv6ExtHdrDestOpt() / UDP(), Dot1Q() / ARP(), ARP())
    ]
    for _ in range(3000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(12, len(data))] = chance.randrange(256)
        odd = Frame(bytes(data[: chance.randrange(14, len(data) + 1)]), "one", "two")
        assert str(odd).startswith(odd.protocol)
        assert len(odd.payload) <= len(odd.data)
