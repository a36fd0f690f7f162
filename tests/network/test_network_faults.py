"""Faults of a private network do to frames what they say, are counted to the frame, and are over when they end."""

import threading
import time
from collections import UserList
from collections.abc import Callable

import pytest

from pytest_readonly_vm import Lab
from pytest_readonly_vm.errors import FaultUnused, NetworkError
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.network.frame import Frame
from tests.network.frames import BROADCAST, frame
from tests.network.plugs import Plugs, numbers, plugged
from tests.qemu.waiting import eventually

MANY = 400


@pytest.fixture(autouse=True)
def heard(plugs: Plugs) -> None:
    """What was sent before all plugs were there is no test's."""
    for plug in plugs.values():
        plug.heard()


def passed(plugs: Plugs, source: str, to: str, count: int = MANY, *, port: int = 7) -> list[int]:
    """Which of so many numbered frames arrive, in their order."""
    plugs.numbered(source, to, count, ports=(40000, port))
    plugs.settle()
    return numbers(plugs[to].heard())


def test_one_seed_loses_the_same_frames_of_the_same_sequence(lan: PrivateNetwork, plugs: Plugs) -> None:
    lost = []
    for seed, between in ((7, ("one", "two")), (7, None), (8, None)):
        with lan.faults(loss="20%", seed=seed, between=between) as fault:
            arrived = passed(plugs, "one", "two")
            assert passed(plugs, "two", "one") != arrived, "each way has numbers of its own"
        lost.append(set(range(MANY)) - set(arrived))
        assert fault.counts.ways["one", "two"] == len(lost[-1])
        assert fault.counts.seen == 2 * MANY
    assert lost[0] == lost[1] != lost[2]
    assert 0.1 * MANY < len(lost[0]) < 0.3 * MANY


def test_what_a_seed_loses_depends_on_nothing_but_names_and_the_sequence(
    lab: Lab, lan: PrivateNetwork, plugs: Plugs
) -> None:
    with lan.faults(loss=0.5, seed=1):
        first = passed(plugs, "one", "two")
    other = lab.networks.make("other")
    with plugged(other, "three", "two", "one") as moved:
        moved["two"].heard()
        with other.faults(loss=0.5, seed=1):
            for number in range(MANY):  # slowly, and with others between
                moved["one"].send(moved.udp("one", "two", str(number).encode()), moved.tcp("one", "three"))
                moved["three"].send(moved.udp("three", "two", b"x"))
            moved.settle()
            heard = [one for one in moved["two"].heard() if one[6:12] == moved["one"].mac]
    lab.networks.end(other)
    assert numbers(heard) == first


def test_machines_are_said_in_any_sequence(lan: PrivateNetwork, plugs: Plugs) -> None:
    """As a cluster is one."""
    with lan.partition(UserList(["one"]), ["two"]), lan.drop(between=UserList(["one", "three"])):
        assert passed(plugs, "one", "two", 1) == []
        assert passed(plugs, "one", "three", 1) == []


def test_a_partition_is_counted_to_the_frame_and_heals(lan: PrivateNetwork, plugs: Plugs) -> None:
    one, two, three = plugs.values()
    with lan.partition(["one"], ["two", "three"]) as cut:
        assert passed(plugs, "one", "two", 30) == []
        assert passed(plugs, "three", "one", 20) == []
        assert passed(plugs, "two", "three", 10) == list(range(10))
        one.send(frame(BROADCAST, one.mac))
        plugs.settle()
        assert two.heard() == three.heard() == []
        assert cut.hits == 52
    assert dict(cut.counts.ways) == {("one", "two"): 31, ("three", "one"): 20, ("one", "three"): 1}
    assert dict(cut.counts.done) == {"lost": 52}
    assert cut.counts.seen == 51
    assert passed(plugs, "one", "two", 5) == list(range(5))


def test_a_partition_may_be_of_one_direction(lan: PrivateNetwork, plugs: Plugs) -> None:
    with lan.partition("one", "two", one_way=True):
        assert passed(plugs, "one", "two", 3) == []
        assert passed(plugs, "two", "one", 3) == [0, 1, 2]
        assert passed(plugs, "one", "three", 3) == [0, 1, 2]


def test_the_nth_frames_that_match_are_dropped(lan: PrivateNetwork, plugs: Plugs) -> None:
    with lan.drop(protocol="udp", port=53, nth=[3, 5], source="one", to="two") as fault:
        assert passed(plugs, "one", "two", 10, port=54) == list(range(10))
        assert passed(plugs, "one", "three", 10, port=53) == list(range(10))
        assert passed(plugs, "one", "two", 10, port=53) == [0, 1, 3, *range(5, 10)]
    assert fault.hits == 2
    assert str(fault) == "drop, udp, port 53, frame 3, 5 from one to two: 10 frames, 2 lost"


def test_a_function_says_which_frames_are_dropped(lan: PrivateNetwork, plugs: Plugs) -> None:
    seen: list[Frame] = []

    def is_odd(one: Frame) -> bool:
        seen.append(one)
        return int(one.payload) % 2 == 1

    with lan.drop(match=is_odd, source=["one"], protocol="ipv4") as fault:
        plugs.numbered("one", "two", MANY)
        assert numbers(plugs["two"].hear(MANY // 2)) == list(range(0, MANY, 2))
    assert fault.hits == MANY // 2
    ends = {(one.source, one.to, one.source_address, one.to_address, one.source_port, one.to_port) for one in seen}
    assert ends == {("one", "two", plugs["one"].ip, plugs["two"].ip, 40000, 7)}
    assert [one.protocol for one in seen] == ["udp"] * MANY


def test_a_function_is_asked_of_frames_of_any_size(lan: PrivateNetwork, plugs: Plugs) -> None:
    one, two, _ = plugs.values()
    with lan.drop(match=lambda one: len(one) < 100, source="one") as fault:
        one.send(*(frame(two.mac, one.mac, b"x" * (size - 14)) for size in (14, 65550, 60, 9014)))
        assert [len(heard) for heard in two.hear(2)] == [65550, 9014]
    assert fault.hits == 2


def test_what_a_function_raises_is_raised_at_the_end_with_the_frame(lan: PrivateNetwork, plugs: Plugs) -> None:
    def fails(one: Frame) -> bool:
        raise ZeroDivisionError("by nothing")

    def run() -> None:
        with lan.drop(match=fails, source="one"):
            plugs.numbered("one", "two", 3)
            assert numbers(plugs["two"].hear(3)) == [0, 1, 2]

    with pytest.raises(ZeroDivisionError, match="by nothing") as raised:
        run()
    [note] = raised.value.__notes__
    assert "raised for the frame udp from one to two" in note


def test_a_function_that_hangs_holds_up_only_its_frames_and_not_the_end(
    lan: PrivateNetwork, plugs: Plugs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_readonly_vm.machine.frame_match._PATIENCE", 0.1)
    release = threading.Event()
    fault = lan.drop(match=lambda one: release.wait(), source="one")
    try:
        plugs.numbered("one", "two", 3)
        plugs.settle()
        assert passed(plugs, "three", "two", 3) == [0, 1, 2]
        with pytest.raises(NetworkError, match=r"its function has not returned within 0.1 s, for the frame udp from"):
            fault.end()
        assert numbers(plugs["two"].hear(3)) == [0, 1, 2]
    finally:
        release.set()


def test_frames_are_late_and_keep_their_order(lan: PrivateNetwork, plugs: Plugs) -> None:
    with lan.faults(delay="150ms", jitter="50ms", seed=3) as fault:
        began = time.monotonic()
        plugs.numbered("one", "two", 20)
        assert numbers(plugs["two"].hear(20)) == list(range(20))
        assert time.monotonic() - began > 0.1
    assert dict(fault.counts.done) == {"delayed": 20}


def test_frames_come_twice_overtaken_damaged(lan: PrivateNetwork, plugs: Plugs) -> None:
    with lan.faults(duplicate=1, to="two") as twice:
        assert passed(plugs, "one", "two", 3) == [0, 0, 1, 1, 2, 2]
    with lan.faults(reorder=1, to="two") as overtaken:
        plugs.numbered("one", "two", 4)
        assert numbers(plugs["two"].hear(4)) == [1, 0, 3, 2]
    with lan.faults(corrupt=1, to="two") as damaged:
        sent = plugs.udp("one", "two", b"x" * 100)
        plugs["one"].send(sent)
        [arrived] = plugs["two"].hear(1)
    difference = int.from_bytes(sent, "big") ^ int.from_bytes(arrived, "big")
    assert difference.bit_count() == 1
    assert arrived[:14] == sent[:14]
    assert [dict(one.counts.done) for one in (twice, overtaken, damaged)] == [
        {"duplicated": 3},
        {"reordered": 2},
        {"corrupted": 1},
    ]


def test_one_that_waits_in_vain_to_be_overtaken_arrives(lan: PrivateNetwork, plugs: Plugs) -> None:
    fault = lan.faults(reorder=1)
    plugs.numbered("one", "two", 1)
    assert numbers(plugs["two"].hear(1)) == [0]
    with pytest.raises(FaultUnused, match="reorder 100 %: 1 frame of those that it is for, and nothing done to any"):
        fault.end()


def test_a_rate_has_frames_take_their_time_and_a_queue_with_an_end(lan: PrivateNetwork, plugs: Plugs) -> None:
    with lan.faults(rate="1Mbit", source="one") as fault:
        began = time.monotonic()
        plugs["one"].send(*[plugs.udp("one", "two", b"x" * 1208)] * MANY)  # 1250 bytes, 10 ms each
        plugs.settle()
        done = fault.counts.done
        plugs["two"].hear(done["limited"])
        assert time.monotonic() - began > 0.01 * done["limited"] - 0.05
    assert done["limited"] + done["overflowed"] == MANY
    assert 50 <= done["limited"] < MANY  # those that wait are half a second's, and more the later others are read


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (lambda lan: lan.faults(delay="long"), "delay='long': not a time"),
        (lambda lan: lan.faults(loss=2), "loss=2: not a part"),
        (lambda lan: lan.faults(), "a fault that does nothing"),
        (lambda lan: lan.faults(loss=1, protocol="http"), "protocol='http': none of tcp"),
        (lambda lan: lan.faults(loss=1, between=("one",)), "no way from a machine to itself"),
        (lambda lan: lan.faults(loss=1, between=()), "faults: between=: no machine"),
        (lambda lan: lan.faults(loss=1, between=("one", "two"), to="one"), "between= is for both directions"),
        (lambda lan: lan.faults(loss=1, source="four"), "four is not on it; one, two, three are"),
        (lambda lan: lan.drop(source="one", to=["one"]), "no way from a machine to itself"),
        (lambda lan: lan.drop(nth=0), "nth=0: frames are counted from 1"),
        (lambda lan: lan.drop(port=0), "port=0: not from 1"),
        (lambda lan: lan.partition(["one"], []), "partition: no machine"),
        (lambda lan: lan.partition(["one"]), "partition: 1 sides, and not two or more"),
        (lambda lan: lan.partition("one", "two", "three", one_way=True), "3 sides, and not two"),
        (lambda lan: lan.partition(["one", "two"], ["two"]), "two is on two sides"),
        (lambda lan: lan.link("one"), "one is not ready yet"),
        (lambda lan: lan.capture("/nowhere/at/all.pcapng"), "cannot be written: No such file"),
    ],
)
def test_what_can_reach_nobody_is_refused_in_a_sentence(
    lan: PrivateNetwork, begin: Callable[[PrivateNetwork], object], words: str
) -> None:
    with pytest.raises(NetworkError, match=r"\A.*\Z") as refused:
        begin(lan)
    assert words in str(refused.value)
    assert not [entry for entry in lan.history.entries() if entry.is_pending], "something is on"


def test_a_fault_that_has_met_nothing_is_an_error_but_after_one_of_the_tests(lan: PrivateNetwork, plugs: Plugs) -> None:
    fault = lan.drop(port=2379, protocol="tcp")
    plugs["one"].send(plugs.tcp("one", "two", ports=(40000, 2380)))
    plugs.settle()
    with pytest.raises(FaultUnused, match="drop, tcp, port 2379: it has met no frame") as unused:
        fault.end()
    assert "tcp/2380 1" in unused.value.__notes__[0]
    fault.end()  # which does nothing

    with pytest.raises(KeyError, match="body"), lan.partition("one", "two"):
        raise KeyError("body")
    noted = [(entry.kind, entry.is_pending) for entry in lan.history.entries()]
    assert noted == [("fault", False), ("partition", False)]


def test_what_a_test_leaves_on_is_ended_with_it(lan: PrivateNetwork, plugs: Plugs) -> None:
    left = lan.partition("one", "two"), lan.drop(protocol="tcp", to="three")
    passed(plugs, "one", "two", 3)
    errors = list(lan.end_test(failed=False))
    assert [type(error) for error in errors] == [FaultUnused]
    assert left[0].hits == 3
    assert passed(plugs, "one", "two", 3) == [0, 1, 2]
    assert lan.drop(protocol="tcp").is_on
    assert not list(lan.end_test(failed=True))
    assert not list(lan.end_test(failed=False))


def test_faults_that_end_while_many_frames_wait_for_a_function_let_them_go(lan: PrivateNetwork, plugs: Plugs) -> None:
    """Also those that the switch did not read any more, as it waits itself when too many do."""
    release = threading.Event()
    fault = lan.drop(match=lambda one: release.wait(), source="one")
    plugs.numbered("one", "two", 9000)
    eventually(lambda: plugs["one"].counters()["received"] > 1000, "the switch has read some")
    assert plugs["one"].counters()["received"] < 9000, "it has read all, so that this shows nothing"
    ending = threading.Timer(0.1, release.set)
    ending.start()
    with pytest.raises(FaultUnused):
        fault.end()
    ending.join()
    assert numbers(plugs["two"].hear(9000)) == list(range(9000))
