"""What is under way in a switch belongs to the machines that there are, and is lost with them."""

import time

from pytest_readonly_vm.network.switch.capture import Capture
from pytest_readonly_vm.network.switch.forwarding import Forwarding
from pytest_readonly_vm.network.switch.packet import HEAD, packet
from pytest_readonly_vm.network.switch.rule import Pair, Rule
from tests.network.frames import frame, mac

ONE, TWO = 1, 2


class Outlet:
    """A port that remembers what it is given."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = str(number)
        self.heard: list[bytes] = []

    def give(self, packets: list[bytes]) -> None:
        self.heard += [one[HEAD + 14 :] for one in packets]


class Switch:
    """A switch with two ports, under one fault on the way from the first to the second."""

    def __init__(self, **fault: object) -> None:
        self.asked: list[int] = []
        self.forwarding = Forwarding(Capture(1 << 20, str), self._ask)
        self.two = Outlet(TWO)
        self.forwarding.connect(Outlet(ONE))
        self.forwarding.connect(self.two)
        self.forwarding.rules[1] = Rule(1, {"label": "fault", "pairs": [(ONE, TWO)], **fault}, str)

    def _ask(self, number: int, rule: Rule, pair: Pair, packet: bytes) -> None:
        self.asked.append(number)

    def send(self, text: bytes) -> None:
        self.forwarding.receive(ONE, [packet(frame(mac(TWO), mac(ONE), text))])

    def has_everything_come(self) -> bool:
        """Whether nothing is under way, once what is late has come."""
        while (patience := self.forwarding.patience()) is not None:
            time.sleep(patience)
            self.forwarding.tick()
        return self.forwarding.under_way() == []


def test_a_frame_that_is_to_be_overtaken_is_of_its_time_alone() -> None:
    switch = Switch(reorder=1.0)
    switch.send(b"of an abandoned time")
    switch.forwarding.hold()
    switch.forwarding.go_on([])
    switch.send(b"1")
    switch.send(b"2")
    assert switch.has_everything_come()
    assert switch.two.heard == [b"2", b"1"]


def test_who_comes_anew_hears_nothing_of_what_was_for_the_one_before() -> None:
    for switch in (Switch(delay=0.05), Switch(reorder=1.0), Switch(asks=True)):
        for is_gone in (False, True):
            switch.send(b"to the one before")
            if is_gone:
                switch.forwarding.disconnect(TWO)
            new = Outlet(TWO)
            switch.forwarding.connect(new)
            for number in switch.asked:
                switch.forwarding.answer(number, is_for=False)
            assert switch.has_everything_come()
            assert new.heard == []
        switch.forwarding.remove(1)
        switch.send(b"to you")
        assert new.heard == [b"to you"]


def test_what_is_late_while_frames_are_held_is_not_lost_with_a_line() -> None:
    switch = Switch(delay=0.05)
    switch.send(b"late")
    switch.forwarding.hold()
    new = Outlet(TWO)
    switch.forwarding.connect(new)  # a machine that does not come up in the end
    switch.forwarding.go_on()
    assert switch.has_everything_come()
    assert new.heard == [b"late"]
