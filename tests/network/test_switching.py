"""The switch passes frames on as a switch does."""

import socket

from pytest_readonly_vm.evidence.networks import describe
from tests.network.frames import BROADCAST, frame, mac
from tests.network.plugs import Plug, Plugs, ask, on_loop
from tests.qemu.waiting import GENEROUS


def test_frames_go_to_the_card_that_has_their_address_and_to_all_when_nobody_has(plugs: Plugs) -> None:
    one, two, three = plugs.values()
    known, unknown, to_all = (frame(to, one.mac, b"x" * 50) for to in (two.mac, mac(99), BROADCAST))
    for plug in plugs.values():
        plug.heard()  # what came before others were known
    one.send(known, unknown, to_all)
    plugs.settle()
    assert two.heard() == [known, unknown, to_all]
    assert three.heard() == [unknown, to_all]
    assert one.heard() == []


def test_frames_of_every_size_pass(plugs: Plugs) -> None:
    one, two, _ = plugs.values()
    two.heard()
    sizes = (14, 60, 1514, 9014, 65550)
    for size in sizes:
        one.send(frame(two.mac, one.mac, b"x" * (size - 14)))
        assert [len(heard) for heard in two.hear(1)] == [size]


def test_a_card_that_sends_what_is_no_frame_is_cut_off_and_no_other(plugs: Plugs) -> None:
    one, two, three = plugs.values()
    two.heard()
    three.socket.sendall(b"\xff" * 64)
    assert three.socket.recv(1) == b""
    one.send(frame(two.mac, one.mac))
    assert len(two.hear(1)) == 1
    assert len(ask(plugs.lan, "ports")) == 2
    cut = "the line to three is cut: its card sent a frame of 4294967295 bytes"
    assert [entry.what for entry in plugs.lan.history.entries()] == [cut]
    assert cut in describe(plugs.lan)


def another_line(plug: Plug) -> socket.socket:
    """A line more to the port of a plug, as a machine has that is made anew while it still runs."""
    line: socket.socket = on_loop(plug.lan, lambda: plug.lan.connect(plug.member))
    line.settimeout(GENEROUS)
    return line


def test_a_machine_whose_successor_does_not_come_up_has_its_line_again(plugs: Plugs) -> None:
    one, two, _ = plugs.values()
    one.heard()
    early, late = (frame(two.mac, one.mac, text) for text in (b"early", b"late"))
    two.heard()
    first, second = another_line(one), another_line(one)
    one.send(late)  # it does not know of the others
    second.sendall(len(early).to_bytes(4, "big") + early)
    assert two.hear(1) == [early]
    ask(plugs.lan, "hold")
    assert ask(plugs.lan, "unread") == 0
    ask(plugs.lan, "go_on")
    assert len(ask(plugs.lan, "ports")) == 3
    first.close()  # who is not current may end as it likes
    second.close()
    assert two.hear(1) == [late]
    two.send(said := frame(one.mac, two.mac, b"to the one that lives"))
    assert one.hear(1) == [said]
    with another_line(one) as third:
        ask(plugs.lan, "disconnect", number=one.member.port)
        assert one.socket.recv(1) == third.recv(1) == b""


def test_a_machine_whose_successor_has_come_up_is_not_heard_any_more(plugs: Plugs) -> None:
    one, two, _ = plugs.values()
    two.heard()
    with another_line(one) as line:
        one.send(frame(two.mac, one.mac, b"of an abandoned time"))
        one.socket.close()
        said = frame(two.mac, one.mac, b"of the present")
        line.sendall(len(said).to_bytes(4, "big") + said)
        assert two.hear(1) == [said]
