"""The network's own station answers as DHCP, DNS and neighbours do, and to nothing that makes no sense."""

import asyncio
import contextlib
import json
import random
import struct
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from pytest_readonly_vm import Lab
from pytest_readonly_vm.errors import NetworkError, WaitTimeout
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.start.cluster_state import NetworkState
from tests.network import frames
from tests.network.plugs import Plug, ask, on_loop
from tests.qemu.waiting import GENEROUS, eventually

ZEROS, EVERYBODY = "0.0.0.0", "255.255.255.255"
SERVER = bytes.fromhex("52540000ffff")
DISCOVER, OFFER, REQUEST, ACK, NAK, RELEASE, INFORM = 1, 2, 3, 5, 6, 7, 8
A, SOA, PTR, AAAA, TXT = 1, 6, 12, 28, 16


class Client(Plug):
    """A card with a DHCP client, and what else asks a network's services."""

    def __init__(self, lan: PrivateNetwork, name: str, number: int) -> None:
        super().__init__(lan, name, number)
        address = self.member.address
        self.mac, self.ip, self.ip6 = bytes.fromhex(address.mac.replace(":", "")), str(address.ipv4), address.ipv6

    def dhcp(self, kind: int, *, current: str = ZEROS, mac: bytes | None = None, **options: bytes) -> None:
        """Send a DHCP message; `options` are called as ``o50``."""
        head = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x12345678, 3, 0x8000) + IPv4Address(current).packed + bytes(12)
        head += (mac or self.mac).ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63"
        said = {53: bytes([kind]), **{int(name[1:]): value for name, value in options.items()}}
        body = b"".join(bytes([code, len(value)]) + value for code, value in said.items()) + b"\xff"
        self.send(frames.udp(frames.BROADCAST, self.mac, head + body, ports=(68, 67), addresses=(ZEROS, EVERYBODY)))

    def reply(self) -> "Reply":
        """The next that it hears, as DHCP."""
        return Reply(self.answer())

    def answer(self) -> bytes:
        """The next that it hears and that is not asked whether it is there."""
        return next(frame for frame in iter(lambda: self.hear(1)[0], None) if not is_probe(frame))

    def query(self, name: str, kind: int, *, version: int = 4) -> tuple[int, list[bytes]]:
        """What DNS says: its code, and the data of the answers of that kind."""
        question = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        question += b"\0" + struct.pack(">HH", kind, 1)
        query = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question
        if version == 4:
            self.send(frames.udp(SERVER, self.mac, query, ports=(5000, 53), addresses=(self.ip, "10.77.0.1")))
            data = udp_of(self.answer(), 14 + 20)
        else:
            segment = struct.pack(">HHHH", 5000, 53, 8 + len(query), 0) + query
            self.send(ipv6(SERVER, self.mac, 17, segment, (self.ip6, IPv6Address("fd77::1"))))
            data = udp_of(self.answer(), 14 + 40)
        number, flags, questions, answers, authorities, _ = struct.unpack_from(">HHHHHH", data)
        assert (number, flags & 0x8000, questions) == (7, 0x8000, 1)
        assert data[12 : 12 + len(question)] == question
        at, found = 12 + len(question), []
        for _ in range(answers):
            owner, is_of, group, _, size = struct.unpack_from(">HHHIH", data, at)
            assert (owner, is_of, group) == (0xC00C, kind, 1)
            found.append(data[at + 12 : at + 12 + size])
            at += 12 + size
        assert (authorities == 1) == (not found and flags & 15 in (0, 3))
        return flags & 15, found


class Reply:
    """A DHCP message."""

    def __init__(self, frame: bytes) -> None:
        self.receiver = frame[:6]
        data = udp_of(frame, 14 + 20)
        self.yours, self.next_server = (str(IPv4Address(data[at : at + 4])) for at in (16, 20))
        self.file = data[108:236].rstrip(b"\0")
        self.options, at = dict[int, bytes](), 240
        while data[at] != 255:
            self.options[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
            at += 2 + data[at + 1]

    @property
    def kind(self) -> int:
        return self.options[53][0]


def udp_of(frame: bytes, at: int) -> bytes:
    """The data of a datagram whose UDP header is there, and whose checksum is right."""
    addresses = frame[26:34] if at == 34 else frame[22:54]
    size = int.from_bytes(frame[at + 4 : at + 6], "big")
    assert internet_sum(addresses + struct.pack(">HH", 17, size) + frame[at:]) == 0xFFFF
    return frame[at + 8 :]


def internet_sum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    return total % 0xFFFF or 0xFFFF


def ipv6(to: bytes, source: bytes, protocol: int, payload: bytes, addresses: tuple[IPv6Address, IPv6Address]) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 255) + addresses[0].packed + addresses[1].packed
    return frames.frame(to, source, head + payload, ethertype=0x86DD)


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[PrivateNetwork]:
    """A network with everything that it can offer; it is the first, by which its addresses go."""
    offered: dict[str, Any] = {"gateway": "router", "boot_file": "boot.ipxe", "tftp": "one"}
    made = lab.networks.make("lan", mtu=1400, dhcp=True, dns=True, **offered)
    assert str(made.subnet) == "10.77.0.0/24"
    yield made
    lab.networks.end(made)


@pytest.fixture(scope="module")
def one(served: PrivateNetwork) -> Iterator[Client]:
    with plugged_in(served, "one", 1) as client:
        yield client


@pytest.fixture(scope="module")
def two(served: PrivateNetwork) -> Iterator[Client]:
    with plugged_in(served, "two", 2) as client:
        yield client


@contextlib.contextmanager
def plugged_in(served: PrivateNetwork, name: str, number: int) -> Iterator[Client]:
    client = Client(served, name, number)
    with client.socket:
        yield client


def is_probe(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1"


def heard_nothing(client: Client) -> bool:
    """Whether it was answered nothing: the next that it hears is what it asks for then."""
    client.dhcp(DISCOVER)
    return client.reply().kind == OFFER


def test_who_asks_for_an_address_gets_its_own_and_hears_of_the_network(one: Client) -> None:
    one.dhcp(DISCOVER)
    offer = one.reply()
    assert (offer.kind, offer.yours, offer.receiver) == (OFFER, one.ip, frames.BROADCAST)
    one.dhcp(REQUEST, o50=IPv4Address(one.ip).packed, o54=offer.options[54])
    reply = one.reply()
    assert (reply.kind, reply.yours, reply.next_server, reply.file) == (ACK, one.ip, one.ip, b"boot.ipxe")
    assert {code: reply.options[code] for code in (1, 3, 6, 12, 15, 26, 66, 67)} == {
        1: bytes([255, 255, 255, 0]),
        3: bytes([10, 77, 0, 2]),  # kept for the machine of that name, which is not there yet
        6: bytes([10, 77, 0, 1]),
        12: b"one",
        15: b"lan.test",
        26: (1400).to_bytes(2, "big"),
        66: one.ip.encode(),
        67: b"boot.ipxe",
    }


def test_who_renews_is_answered_alone(one: Client, two: Client) -> None:
    one.dhcp(REQUEST, current=one.ip)
    renewed = one.reply()
    assert (renewed.kind, renewed.yours, renewed.receiver) == (ACK, one.ip, one.mac)
    one.dhcp(INFORM, current=one.ip)
    informed = one.reply()
    assert (informed.kind, informed.yours, 51 in informed.options) == (ACK, ZEROS, False)


def test_who_wants_another_address_is_refused(one: Client, two: Client) -> None:
    one.dhcp(REQUEST, o50=IPv4Address(two.ip).packed)
    refused = one.reply()
    assert (refused.kind, refused.yours) == (NAK, ZEROS)
    assert set(refused.options) == {53, 54}


def test_who_is_a_stranger_or_asks_another_server_is_not_answered(one: Client, two: Client) -> None:
    one.dhcp(DISCOVER, mac=frames.mac(99))
    one.dhcp(REQUEST, o50=IPv4Address(one.ip).packed, o54=IPv4Address("10.77.0.9").packed)
    one.dhcp(RELEASE, current=one.ip)
    assert heard_nothing(one)


@pytest.mark.parametrize("version", [4, 6])
def test_names_of_machines_are_known(one: Client, two: Client, version: int) -> None:
    ours, its6 = bytes([10, 77, 0, 1]), two.ip6.packed
    for name in ("two", "TWO.lan.test"):
        assert one.query(name, A, version=version) == (0, [IPv4Address(two.ip).packed])
        assert one.query(name, AAAA, version=version) == (0, [its6])
        assert one.query(name, TXT, version=version) == (0, [])
    assert one.query("ns.lan.test", A, version=version) == (0, [ours])
    assert one.query(ip_address(two.ip).reverse_pointer, PTR, version=version) == (0, [b"\3two\3lan\4test\0"])
    assert one.query(two.ip6.reverse_pointer, PTR, version=version) == (0, [b"\3two\3lan\4test\0"])


def test_names_that_are_nobodys_are_told_so_and_others_are_refused(one: Client) -> None:
    no_such_name, refused = 3, 5
    for name in ("three", "three.lan.test", "a.two.lan.test", "9.0.77.10.in-addr.arpa"):
        assert one.query(name, A) == (no_such_name, [])
    for name in ("example.org", "1.0.0.127.in-addr.arpa", "in-addr.arpa", "test", "x" * 63 + ".org"):
        assert one.query(name, A)[0] == (no_such_name if name == "test" else refused)
    assert len(one.query("lan.test", SOA)[1]) == 1


def test_names_come_and_go_with_their_machines(served: PrivateNetwork, one: Client) -> None:
    member = served.join("three", card=1)
    ask(served, "ports")  # which it answers when it has heard of that
    assert one.query("three", A) == (0, [member.address.ipv4.packed])
    served.leave(member)
    ask(served, "ports")
    assert one.query("three", A) == (3, [])
    named_as_we = served.join("ns", card=1)
    ask(served, "ports")
    assert one.query("ns", A) == (0, [named_as_we.address.ipv4.packed])
    served.leave(named_as_we)
    router = served.join("router", card=1)
    assert str(router.address.ipv4) == "10.77.0.2"
    served.leave(router)


def test_the_station_is_a_neighbour_that_answers(one: Client, two: Client) -> None:
    asked = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + one.mac + IPv4Address(one.ip).packed + bytes(6)
    one.send(frames.frame(frames.BROADCAST, one.mac, asked + bytes([10, 77, 0, 1]), ethertype=0x0806))
    answer = one.answer()
    assert (answer[:6], answer[20:22], answer[22:28]) == (one.mac, b"\0\2", SERVER)
    echo = b"\x08\0\0\0" + b"\0\1\0\1" + b"x" * 1000
    one.send(frames.ipv4(SERVER, one.mac, echo, protocol="icmp", addresses=(one.ip, "10.77.0.1")))
    answer = one.answer()
    assert (answer[34], answer[38:], internet_sum(answer[34:])) == (0, echo[4:], 0xFFFF)
    ours = IPv6Address("fd77::1")
    echo6 = b"\x80\0\0\0" + b"\0\1\0\1" + b"x" * 1001
    solicitation = b"\x87\0\0\0" + bytes(4) + ours.packed
    for asks, says in ((echo6, 129), (solicitation, 136), (b"\x85" + bytes(7), 134)):
        one.send(ipv6(b"\x33\x33\0\0\0\1", one.mac, 58, asks, (one.ip6, ours)))
        answer = one.answer()
        size = len(answer) - 54
        assert answer[54] == says
        assert internet_sum(answer[22:54] + struct.pack(">IHH", size, 0, 58) + answer[54:]) == 0xFFFF
    assert served_prefix(answer) == "fd77::/64"


def test_names_lead_to_ipv6_addresses_that_machines_have_made(one: Client, two: Client) -> None:
    nobody = IPv6Address(0)

    def looks_for(address: IPv6Address) -> None:
        asked = b"\x87" + bytes(7) + address.packed
        two.send(ipv6(b"\x33\x33\xff" + address.packed[-3:], two.mac, 58, asked, (nobody, address)))
        eventually(lambda: two.counters()["received"] == two.sent, "the switch has read it")
        assert one.answer()[12:14] == b"\x86\xdd"  # as all hear it

    private, elsewhere = IPv6Address("fd77::1:2:3:4"), IPv6Address("fe80::5")
    for made in (private, elsewhere):
        looks_for(made)
        assert one.query("two", AAAA) == (0, [private.packed])
    assert one.query(private.reverse_pointer, PTR) == (0, [b"\3two\3lan\4test\0"])
    for made in (two.ip6, private):
        looks_for(made)
        assert one.query("two", AAAA) == (0, [two.ip6.packed])


def served_prefix(advertisement: bytes) -> str:
    at = advertisement.index(b"\x03\x04\x40\xc0")
    return f"{IPv6Address(advertisement[at + 16 : at + 32])}/{advertisement[at + 2]}"


def test_an_address_is_awaited_until_its_machine_has_it(served: PrivateNetwork, one: Client) -> None:
    ours = one.member.address.ipv4.packed

    def wait(timeout: float) -> "Future[None]":
        work = served.wait_for_address(one.member, timeout=timeout, of="one")
        return asyncio.run_coroutine_threadsafe(work, served._loop.loop)

    with pytest.raises(WaitTimeout, match=rf"one: nobody answers as {one.ip} on network lan within 0\.1 s"):
        wait(0.1).result()
    assert one.heard()
    present, impatient = wait(GENEROUS), wait(0.1)
    with pytest.raises(WaitTimeout):
        impatient.result()
    one.heard()
    [probe] = one.hear(1)
    assert (is_probe(probe), probe[:6], probe[38:42]) == (True, one.mac, ours)
    reply = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + one.mac + ours + SERVER + bytes([10, 77, 0, 1])
    one.send(frames.frame(SERVER, one.mac, reply, ethertype=0x0806))
    present.result(GENEROUS)


def test_nothing_that_guests_say_ends_it(served: PrivateNetwork, one: Client, two: Client) -> None:
    numbers = random.Random(14)
    one.dhcp(DISCOVER)
    good = [one.answer()]
    good[0] = good[0][:34] + struct.pack(">HH", 68, 67) + good[0][38:42] + b"\1" + good[0][43:]  # as a question
    question = struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 1) + b"\3two\0\0\xff\0\1" + b"\0\0\x29" + bytes(8)
    good.append(frames.udp(SERVER, one.mac, question, ports=(5000, 53), addresses=(one.ip, "10.77.0.1")))
    asked = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + one.mac + IPv4Address(one.ip).packed + bytes(6)
    good.append(frames.frame(SERVER, one.mac, asked + bytes([10, 77, 0, 1]), ethertype=0x0806))
    for protocol, content in ((58, b"\x87" + bytes(7)), (58, b"\x85"), (17, bytes(8)), (0, b"\x3a\0" + bytes(6))):
        good.append(ipv6(SERVER, one.mac, protocol, content + bytes(16), (one.ip6, IPv6Address("fd77::1"))))
    for _ in range(300):
        bad = []
        for frame in good:
            changed = bytearray(SERVER + one.mac + frame[12:])
            for _ in range(numbers.randrange(6)):
                octet = numbers.choice((0, 1, 63, 192, 255, numbers.randrange(256)))
                changed[numbers.randrange(12, len(changed))] = octet
            size = numbers.choice((len(changed), numbers.randrange(14, len(changed))))
            bad.append(bytes(changed[:size]))
        one.send(*bad)
    eventually(lambda: one.counters()["received"] == one.sent, "the switch has read all")
    one.heard()
    assert one.query("two", A) == (0, [IPv4Address(two.ip).packed])


def test_a_network_that_was_frozen_offers_the_same(lab: Lab, served: PrivateNetwork) -> None:
    state = NetworkState(**json.loads(json.dumps(asdict(served.state([])))))
    again, _ = lab.networks.again(state, owner="another")
    assert again.services == served.services
    lab.networks.end(again)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"boot_file": "x"}, "say dhcp=True as well"),
        ({"dhcp": True, "tftp": "x"}, "say boot_file as well"),
        ({"dhcp": True, "boot_file": "x" * 128}, "not from 1 to 127 bytes"),
        ({"gateway": "192.168.1.1"}, "is none of a machine's"),
    ],
)
def test_services_that_make_no_sense_are_refused(lab: Lab, options: dict[str, Any], says: str) -> None:
    with pytest.raises(NetworkError, match=says):
        lab.networks.make("other", **options)


def test_a_network_without_dhcp_gives_nobody_an_address(lab: Lab) -> None:
    lan = lab.networks.make("plain", configure=False)
    member = lan.join("one", card=1)
    with pytest.raises(NetworkError, match="say dhcp=True"):
        on_loop(lan, lambda: lan.wait_for_address(member, timeout=1.0, of="one"))
    lab.networks.end(lan)
