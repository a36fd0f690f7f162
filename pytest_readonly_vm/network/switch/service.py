"""Owns the network's own station: what answers at the subnet's first address, and looks whether others do at theirs.

It is an outlet of the switch like a machine's port, so faults, captures and the summary of who talked to whom have its
frames as well. Frames are a guest's to choose, so whatever makes no sense is passed over.
"""

import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from pytest_readonly_vm.network.switch import dhcp, dns
from pytest_readonly_vm.network.switch.datagram import (
    ICMP,
    ICMP6,
    UDP,
    Datagram,
    UdpMessage,
    checksum,
    datagram_in,
    frame_of,
    summed,
    udp_content,
    udp_in,
)
from pytest_readonly_vm.network.switch.known import Known
from pytest_readonly_vm.network.switch.mac import interface_of
from pytest_readonly_vm.network.switch.packet import HEAD, packet

NUMBER = 0
"""That of its port; those of machines are higher."""

_ARP = b"\x08\x06"
_ARP_HEAD = struct.pack(">HHBB", 1, 0x0800, 6, 4)
_arp_message = struct.Struct(">6s2s6s4s6x4s").unpack_from
_ASKS, _ANSWERS = b"\0\x01", b"\0\x02"
_ECHO, _ECHO_REPLY, _ECHO6, _ECHO6_REPLY = 8, 0, 128, 129
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT = 133, 134, 135, 136
_FOR_EVER = 0xFFFFFFFF
_DNS_SECONDS = 3600
_OWN_ADDRESS, _TARGET_ADDRESS, _PREFIX, _MTU, _RDNSS = 1, 2, 3, 5, 25
_ALL_NODES = IPv6Address("ff02::1")

_PROBE_EVERY = 0.05
"""Seconds."""


class Service:
    """The station."""

    number = NUMBER
    name = "the network's services"

    def __init__(self, known: Known, send: Callable[[list[bytes]], None], on_present: Callable[[bytes], None]) -> None:
        """`send` has the switch pass on packets from it; `on_present` hears the MAC that was awaited."""
        self.known = known
        self._send = send
        self._on_present = on_present
        self._awaited: dict[bytes, float] = {}
        self._as_told: set[bytes] = set()
        self._instead: dict[bytes, IPv6Address] = {}

    def give(self, packets: list[bytes]) -> None:
        """Take packets for it, and send what it answers."""
        answers = []
        for one in packets:
            try:
                if (frame := self._answer(one[HEAD:])) is not None:
                    answers.append(packet(frame))
            except (ValueError, LookupError, struct.error):
                continue  # which no client of ours has sent
        if answers:
            self._send(answers)

    # Who is there.

    def expect(self, mac: bytes, *, is_wanted: bool) -> None:
        """Ask a machine for its address until it answers, or until nobody wants to know."""
        if is_wanted:
            self._awaited[mac] = 0.0
        else:
            self._awaited.pop(mac, None)

    def patience(self) -> float | None:
        """Seconds until it has something to do, or None."""
        return max(min(self._awaited.values()) - time.monotonic(), 0.0) if self._awaited else None

    def tick(self) -> None:
        """Do it."""
        now = time.monotonic()
        for mac in [mac for mac, due in self._awaited.items() if due <= now]:
            self._awaited[mac] = now + _PROBE_EVERY
            if (host := self.known.hosts.get(mac)) is not None:
                body = _ARP_HEAD + _ASKS + self.known.mac + self.known.ipv4.packed + bytes(6) + host.ipv4.packed
                self._send([packet(mac + self.known.mac + _ARP + body)])

    # What it answers.

    def _answer(self, frame: bytes) -> bytes | None:
        if frame[6] & 1 or not (frame[0] & 1 or frame[:6] == self.known.mac):
            return None
        if frame[12:14] == _ARP:
            return self._arp(frame)
        if (datagram := datagram_in(frame)) is None:
            return None
        is_for_us = datagram.target == self.known.ipv4 or datagram.target in (self.known.ipv6, self._link_local)
        if datagram.protocol == UDP:
            return self._udp(datagram, is_for_us=is_for_us)
        if datagram.protocol == ICMP and is_for_us and datagram.content[0] == _ECHO:
            body = bytes([_ECHO_REPLY, 0, 0, 0]) + datagram.content[4:]
            return self._reply(datagram, body[:2] + checksum(body).to_bytes(2, "big") + body[4:])
        if datagram.protocol == ICMP6:
            return self._icmp6(datagram, is_for_us=is_for_us)
        return None

    def _arp(self, frame: bytes) -> bytes | None:
        head, does, mac, address, wanted = _arp_message(frame, 14)
        if head != _ARP_HEAD:
            return None
        host = self.known.hosts.get(mac)
        if host is not None and address == host.ipv4.packed and self._awaited.pop(mac, None) is not None:
            self._on_present(mac)
        if does != _ASKS or wanted != self.known.ipv4.packed:
            return None
        ours = self.known.mac
        return b"".join((frame[6:12], ours, _ARP, _ARP_HEAD, _ANSWERS, ours, wanted, mac, address))

    def _udp(self, datagram: Datagram, *, is_for_us: bool) -> bytes | None:
        message = udp_in(datagram.content)
        if message.target_port == dhcp.SERVER_PORT and self.known.dhcp and datagram.source.version == 4:
            if (reply := dhcp.answer(message.data, self.known)) is None:
                return None
            said = UdpMessage(dhcp.SERVER_PORT, dhcp.CLIENT_PORT, reply.data)
            content = udp_content(self.known.ipv4, reply.address, said)
            return frame_of(Datagram(self.known.mac, self.known.ipv4, reply.address, UDP, content), reply.mac)
        if message.target_port == dns.PORT and self.known.dns and is_for_us:
            if (data := dns.answer(message.data, self.known, self._instead)) is None:
                return None
            said = UdpMessage(dns.PORT, message.source_port, data)
            return self._reply(datagram, udp_content(datagram.target, datagram.source, said))
        return None

    def _icmp6(self, datagram: Datagram, *, is_for_us: bool) -> bytes | None:
        content = datagram.content
        kind = content[0]
        if kind == _ECHO6 and is_for_us:
            return self._icmp6_reply(datagram, datagram.target, bytes([_ECHO6_REPLY, 0, 0, 0]) + content[4:])
        if kind == _SOLICITATION and not int(datagram.source):
            self._note_address(datagram.sender, IPv6Address(content[8:24]))
        if kind == _SOLICITATION and IPv6Address(content[8:24]) in (self.known.ipv6, self._link_local):
            flags = 0x60 if int(datagram.source) else 0x20
            body = bytes([_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]) + content[8:24]
            body += bytes([_TARGET_ADDRESS, 1]) + self.known.mac
            return self._icmp6_reply(datagram, IPv6Address(content[8:24]), body)
        if kind == _ROUTER_SOLICITATION and self.known.dhcp:
            return self._icmp6_reply(datagram, self._link_local, self._advertisement())
        return None

    def _note_address(self, mac: bytes, address: IPv6Address) -> None:
        """A machine looks whether an address is free. It may have made another than is expected, as who is shy does."""
        host = self.known.hosts.get(mac)
        if host is None or not self.known.dhcp or address not in self.known.subnet6:
            return
        if address == host.ipv6:
            self._as_told.add(mac)
            self._instead.pop(mac, None)
        elif mac not in self._as_told:
            self._instead[mac] = address

    def _advertisement(self) -> bytes:
        """The prefix, of which each machine makes its address; no router is here, so nobody has a lifetime as one."""
        known = self.known
        body = struct.pack(">BBHBBHII", _ROUTER_ADVERTISEMENT, 0, 0, 64, 0, 0, 0, 0)
        body += bytes([_OWN_ADDRESS, 1]) + known.mac
        if known.mtu is not None:
            body += struct.pack(">BBHI", _MTU, 1, 0, known.mtu)
        flags = 0xC0 if known.subnet6.prefixlen == 64 else 0x80
        lifetimes = (_FOR_EVER, _FOR_EVER, 0)
        body += struct.pack(">BBBBIII", _PREFIX, 4, known.subnet6.prefixlen, flags, *lifetimes)
        body += known.subnet6.network_address.packed
        if known.dns:
            body += struct.pack(">BBHI", _RDNSS, 3, 0, _DNS_SECONDS) + known.ipv6.packed
        return body

    @property
    def _link_local(self) -> IPv6Address:
        return IPv6Address(b"\xfe\x80" + bytes(6) + interface_of(self.known.mac))

    def _icmp6_reply(self, to: Datagram, source: IPv4Address | IPv6Address, body: bytes) -> bytes:
        is_nobodys = not int(to.source)  # of who only looks whether the address is free
        target = _ALL_NODES if is_nobodys else to.source
        receiver = b"\x33\x33" + target.packed[-4:] if is_nobodys else to.sender
        content = summed(source, target, ICMP6, body, 2)
        return frame_of(Datagram(self.known.mac, source, target, ICMP6, content), receiver)

    def _reply(self, to: Datagram, content: bytes) -> bytes:
        return frame_of(Datagram(self.known.mac, to.target, to.source, to.protocol, content), to.sender)
