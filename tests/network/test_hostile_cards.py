"""What a guest can do to a network by what its card sends, or does not take: nothing to others, and nothing to us."""

import itertools
import os
import random
import re
import select
import signal
import socket
from pathlib import Path

import pytest

from pytest_readonly_vm.evidence.networks import describe
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.network.switch import forwarding, port
from tests.network.frames import BROADCAST, frame, mac
from tests.network.plugs import Plug, Plugs, ask, numbers, plugged
from tests.qemu.waiting import GENEROUS, eventually

LARGEST = 65536 + 4096
"""Bytes of a frame, as much as QEMU passes on."""


def resident(lan: PrivateNetwork) -> int:
    """Bytes of memory that the switch takes."""
    return int(Path(f"/proc/{lan.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def talk(one: Plug, other: Plug) -> None:
    """See that two can still reach each other."""
    for source, target in ((one, other), (other, one)):
        source.send(said := frame(target.mac, source.mac, b"still here"))
        while target.hear(1) != [said]:
            pass


@pytest.mark.parametrize("size", [0, 1, 6, 12, 13])
def test_a_frame_that_is_too_short_for_addresses_is_lost_alone(plugs: Plugs, size: int) -> None:
    one, two, three = plugs.values()
    one.send(b"\xff" * size, whole := frame(two.mac, one.mac, b"whole"))
    plugs.settle()
    assert whole in two.heard()
    assert not [heard for heard in three.heard() if len(heard) < 14]


@pytest.mark.parametrize("size", [14, 15, LARGEST])
def test_the_shortest_and_the_longest_frame_pass_whole(plugs: Plugs, size: int) -> None:
    one, two, _ = plugs.values()
    two.heard()
    one.send(sent := frame(two.mac, one.mac, os.urandom(size - 14)))
    assert two.hear(1) == [sent]


@pytest.mark.parametrize("size", [LARGEST + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_that_no_frame_has_ends_that_line_alone(plugs: Plugs, size: int) -> None:
    one, two, three = plugs.values()
    three.socket.sendall(size.to_bytes(4, "big") + b"\xff" * 60)
    while three.socket.recv(1 << 16):
        pass
    talk(one, two)
    assert [found["number"] for found in ask(plugs.lan, "ports")] == [one.member.port, two.member.port]


def test_frames_that_come_in_pieces_are_put_together(plugs: Plugs) -> None:
    one, two, _ = plugs.values()
    two.heard()
    sent = [frame(two.mac, one.mac, bytes([number]) * number) for number in range(40)]
    stream = b"".join(len(each).to_bytes(4, "big") + each for each in sent)
    at, sizes = 0, random.Random(1)
    while at < len(stream):
        size = sizes.choice((1, 2, 3, 5, 61, 400))
        one.socket.sendall(stream[at : at + size])
        at += size
    assert two.hear(len(sent)) == sent


def test_noise_of_every_kind_is_forwarded_under_faults_of_every_kind_and_harms_nobody(plugs: Plugs) -> None:
    """Tags, headers that end too early, extensions of extensions: what a fault is for is read of all of it."""
    one, two, _ = plugs.values()
    fault = {"delay": 0.001, "duplicate": 0.5, "reorder": 0.5, "corrupt": 0.5, "protocol": "tcp", "port": 80}
    ask(plugs.lan, "fault", number=1, label="noise", pairs=[[one.member.port, two.member.port]], **fault)
    chance = random.Random(2)
    heads = (b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00" * 40, b"\x88\xa8\x00\x01\x81\x00\x00\x02\x08\x00", b"")
    for _ in range(3000):
        head = chance.choice(heads) + bytes([chance.choice((0x45, 0x4F, 0x40, 0x60))])
        one.send(two.mac + one.mac + head + chance.randbytes(chance.choice((1, 5, 19, 20, 39, 60, 300))))
        if select.select([two.socket], [], [], 0)[0]:
            two.socket.recv(1 << 20)
    one.send(two.mac + one.mac + b"\x81\x00\x00\x01" * 17000)  # nothing but tags
    ask(plugs.lan, "mend", number=1)
    assert ask(plugs.lan, "talk")


def test_a_flood_of_protocols_under_a_fault_takes_no_memory(plugs: Plugs) -> None:
    """For each of which the fault would have a sequence of random numbers, 2.5 KB."""
    one, two, _ = plugs.values()
    before = resident(plugs.lan)
    ask(plugs.lan, "fault", number=1, label="loss", pairs=[[one.member.port, two.member.port]], loss=1.0)
    for start in range(0x600, 0x10000, 0x200):
        one.send(*(frame(two.mac, one.mac, ethertype=start + n) for n in range(0x200)))
    plugs.settle()
    assert ask(plugs.lan, "mend", number=1)["counts"]["lost"] == 0x10000 - 0x600
    assert resident(plugs.lan) - before < 48 << 20  # and not 160
    talk(one, two)


def test_a_flood_of_addresses_takes_no_memory_and_others_still_talk(plugs: Plugs) -> None:
    one, two, three = plugs.values()
    before = resident(plugs.lan)
    for batch in range(30):
        start = batch * 10_000
        three.send(*(frame(three.mac, (1 << 41 | start + n).to_bytes(6, "big")) for n in range(10_000)))
        # What it sends to itself is for nobody else until it has had the switch forget where it is itself.
        plugs.settle()
        for other in (one, two):
            other.heard()
        said = frame(two.mac, one.mac, b"to you alone")
        one.send(said)
        assert two.hear(1) == [said]
        three.send(frame(three.mac, three.mac))
    plugs.settle()
    assert said not in three.heard()
    talk(one, two)
    assert resident(plugs.lan) - before < 16 << 20  # of which the frames that are remembered are the most


def test_who_never_reads_loses_frames_and_holds_up_nobody(plugs: Plugs) -> None:
    one, two, three = plugs.values()
    before = resident(plugs.lan)
    payload = bytes(60_000)
    for _ in range(400):  # 24 MB to each
        one.send(frame(BROADCAST, one.mac, payload))
        assert [len(heard) for heard in two.hear(1)] == [len(payload) + 14]
    plugs.settle()
    dropped = three.counters()["overflowed"]
    assert 300 < dropped < 400  # a few are in the socket and in what waits for it
    assert two.counters()["overflowed"] == 0
    assert describe(plugs.lan).endswith(
        f"\ndropped: {dropped} frames to three, whose card does not take them fast enough"
    )
    assert resident(plugs.lan) - before < port.WAITING + (16 << 20)
    sent = three.counters()["sent"]
    assert all(len(heard) == len(payload) + 14 for heard in three.heard()[-sent:][4:])  # no frame is cut in two
    talk(one, three)


def test_who_sends_as_fast_as_it_can_does_not_keep_others_from_talking(plugs: Plugs) -> None:
    one, two, three = plugs.values()
    flooding = os.fork()
    if flooding == 0:  # a guest of its own pace, which no lock of this process slows down
        packet = frame(mac(99), three.mac, bytes(1500))
        stream = (len(packet).to_bytes(4, "big") + packet) * 100
        three.socket.settimeout(None)
        while True:
            three.socket.sendall(stream)
    try:
        for _ in range(20):
            talk(one, two)
    finally:
        os.kill(flooding, signal.SIGKILL)
        os.waitpid(flooding, 0)
    talk(one, two)


def test_two_that_answer_each_broadcast_by_another_storm_alone(plugs: Plugs) -> None:
    """As two bridges do that are connected twice."""
    one, two, three = plugs.values()
    storm = frame(BROADCAST, one.mac, bytes(1000))
    looping = os.fork()
    if looping == 0:
        one.socket.settimeout(None)
        two.socket.settimeout(None)
        one.socket.sendall(len(storm).to_bytes(4, "big") + storm)
        while True:
            for line in select.select([one.socket, two.socket], [], [])[0]:
                line.sendall(line.recv(1 << 16))
    try:
        eventually(lambda: three.counters()["overflowed"] > 100, "the storm fills the line of who does not read")
    finally:
        os.kill(looping, signal.SIGKILL)
        os.waitpid(looping, 0)
    with plugged(plugs.lan, "four", "five") as others:
        talk(others["four"], others["five"])


def test_a_hundred_cards_all_hear_a_broadcast_and_each_what_is_for_it(lan: PrivateNetwork) -> None:
    with plugged(lan, *(f"vm{number}" for number in range(100))) as many:
        plugs = list(many.values())
        for plug in plugs:
            plug.heard()
        plugs[0].send(called := frame(BROADCAST, plugs[0].mac, b"all"))
        for plug in plugs[1:]:
            assert plug.hear(1) == [called]
        for plug, other in itertools.pairwise(plugs):
            plug.send(said := frame(other.mac, plug.mac, b"you"))
            assert other.hear(1) == [said]
        assert len(ask(lan, "ports")) == 100
        assert ask(lan, "talk")


def test_a_thousand_cards_that_come_and_go_leave_no_descriptor(plugs: Plugs) -> None:
    one, two, _ = plugs.values()
    descriptors = Path(f"/proc/{plugs.lan.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for number in range(1000):
        with plugged(plugs.lan) as others:
            member = plugs.lan.join(f"guest{number}", card=1)
            others.lan.leave(member)
        ours, its = socket.socketpair()
        with ours, its:
            ask(plugs.lan, "connect", its.fileno(), number=1000 + number % 2, name="guest")
            if number % 3 == 0:
                ask(plugs.lan, "disconnect", number=1000 + number % 2)
    eventually(lambda: len(ask(plugs.lan, "ports")) == 3, "the last ones are gone")
    assert len(list(descriptors.iterdir())) == before
    talk(one, two)


def test_what_is_held_loses_nothing_and_keeps_its_order(plugs: Plugs) -> None:
    _, two, three = plugs.values()
    for plug in (two, three):
        plug.heard()
    plugs.numbered("one", "two", 500)
    ask(plugs.lan, "hold")
    plugs.numbered("one", "two", 500)
    plugs.numbered("three", "two", 500, ports=(40001, 7))
    plugs.settle()
    held = two.counters()["sent"]
    ask(plugs.lan, "go_on")
    plugs.numbered("one", "two", 100)
    plugs.settle()
    heard = two.heard()
    assert held < len(heard)
    ours = [one for one in heard if int.from_bytes(one[34:36], "big") == 40000]
    others = [one for one in heard if int.from_bytes(one[34:36], "big") == 40001]
    assert numbers(ours) == [*range(500), *range(500), *range(100)]
    assert numbers(others) == [*range(500)]


def test_what_is_held_or_late_for_a_flood_has_an_end(plugs: Plugs) -> None:
    one, two, _ = plugs.values()
    before = resident(plugs.lan)
    ask(plugs.lan, "fault", number=1, label="late", pairs=[[one.member.port, two.member.port]], delay=3000.0)
    for _ in range(200):
        one.send(*(frame(two.mac, one.mac, bytes(60_000)) for _ in range(10)))  # 120 MB
    plugs.settle()
    assert resident(plugs.lan) - before < forwarding._MOST_KEPT + (24 << 20)
    assert re.search(r"^dropped: \d+ frames on the way, as too many", describe(plugs.lan), re.M)
    plugs.lan.begin_test()
    assert plugs.lan.dropped() == ""
    talk(two, plugs["three"])
    ask(plugs.lan, "hold")
    for _ in range(200):
        one.send(*(frame(mac(99), one.mac, bytes(60_000)) for _ in range(10)))
    plugs.settle()
    assert resident(plugs.lan) - before < forwarding._MOST_KEPT + (24 << 20)
    ask(plugs.lan, "go_on")
    talk(two, plugs["three"])


def test_a_line_that_makes_no_sense_while_frames_are_held_ends_alone(plugs: Plugs, tmp_path: Path) -> None:
    one, two, three = plugs.values()
    ask(plugs.lan, "hold")
    three.socket.sendall(b"\xff" * 64)
    with (tmp_path / "under way").open("w+b") as kept:
        ask(plugs.lan, "under_way", kept.fileno())
    ask(plugs.lan, "go_on")
    talk(one, two)
    eventually(lambda: len(ask(plugs.lan, "ports")) == 2, "its line has ended", within=GENEROUS)
