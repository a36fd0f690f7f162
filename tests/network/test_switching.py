"""The switch passes frames on as a switch does."""

from tests.network.frames import BROADCAST, frame, mac
from tests.network.plugs import Plugs, ask


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
