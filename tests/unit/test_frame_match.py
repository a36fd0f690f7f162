"""A function that says which frames a fault is for is called while the fault is on, and not afterwards."""

import threading

from pytest_readonly_vm.machine.frame_match import FrameMatch
from pytest_readonly_vm.network.frame import Frame
from tests.qemu.waiting import GENEROUS


def test_what_waits_when_the_fault_ends_is_passed_over() -> None:
    asked: list[bytes] = []
    answered: list[int] = []
    called, release = threading.Event(), threading.Event()

    def function(frame: Frame) -> bool:
        asked.append(frame.data[:1])
        called.set()
        return release.wait(GENEROUS)

    match = FrameMatch(function, lambda number, is_for: answered.append(number), label="drop")
    for number in range(40):
        match.ask(number, Frame(bytes([number]) + bytes(59), "a", "b"))
    assert called.wait(GENEROUS)
    ending = threading.Thread(target=match.end)
    ending.start()
    while not match._is_over:
        ending.join(0.001)
    release.set()
    ending.join(GENEROUS)
    match._thread.join(GENEROUS)
    assert (asked, answered) == ([b"\0"], [0])
