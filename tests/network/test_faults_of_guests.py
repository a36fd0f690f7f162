"""Guests meet the faults of their network as those of a real one, and go on when they are over."""

import re
from collections.abc import Iterator

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates


@pytest.fixture(scope="module")
def network(lab: Lab) -> PrivateNetwork:
    """The network of both guests."""
    return lab.networks.make("lan", owner="two guests")


@pytest.fixture(scope="module")
def guests(lab: Lab, network: PrivateNetwork) -> list[VirtualMachine]:
    """Two guests, that all tests here share."""
    tiny = tiny_linux()
    config = VmConfig().replace(
        image=tiny.disk,
        kernel=tiny.kernel,
        initrd=tiny.initrd,
        append=tiny.append,
        memory="128M",
        accel=ACCEL,
        cache=templates(),
        boot_timeout=5 * GENEROUS,
        timeout_factor=1,
    )
    return [lab.start(config, name=name, networks=[network], host=name) for name in ("one", "two")]


@pytest.fixture
def one(guests: list[VirtualMachine]) -> VirtualMachine:
    return guests[0]


@pytest.fixture
def two(guests: list[VirtualMachine]) -> VirtualMachine:
    return guests[1]


@pytest.fixture
def lan(network: PrivateNetwork, one: VirtualMachine, two: VirtualMachine) -> Iterator[PrivateNetwork]:
    """The network as a test has it: healthy, and both know where the other is."""
    one.run("ping -c1 two")
    two.run("ping -c1 one")
    network.begin_test()
    yield network
    assert not list(network.end_test(failed=False))


def test_frames_are_late_by_what_was_said(lan: PrivateNetwork, one: VirtualMachine, two: VirtualMachine) -> None:
    with lan.faults(delay="200ms", between=[one, two]) as late:
        said = one.run("ping -c2 -W10 two").stdout
    trips = [float(trip) for trip in re.findall(r"time=([\d.]+) ms", said)]
    assert len(trips) == 2
    assert min(trips) >= 400, "no more than what one way takes"
    assert late.counts.ways.keys() == {("one", "two"), ("two", "one")}
    assert late.counts.ways["one", "two"] >= 2


def test_a_partition_of_one_direction_is_one(lan: PrivateNetwork, one: VirtualMachine, two: VirtualMachine) -> None:
    def sent() -> dict[tuple[str, str], int]:
        return {(talk.source, talk.to): talk.protocols["icmp"] for talk in lan.talk()}

    with lan.partition(two, one, one_way=True) as cut:
        assert one.run("ping -c2 -W1 two", check=False).exit_code == 1
        both = {("one", "two"): 2, ("two", "one"): 2}
        eventually(lambda: sent() == both, "the requests come, and are answered")
    assert cut.counts.ways.keys() == {("two", "one")}
    one.run("ping -c1 two")


def test_a_connection_goes_on_when_the_network_is_whole_again(
    lan: PrivateNetwork, one: VirtualMachine, two: VirtualMachine
) -> None:
    two.run("(sleep 1000 | nc -l -p 7000) >/tmp/come 2>/dev/null </dev/null &")  # its nc ends with what it is to say
    eventually(lambda: ":7000" in two.run("netstat -ltn").stdout, "somebody listens")
    one.run("(for i in $(seq 100); do echo $i; sleep 0.05; done | nc two 7000) >/dev/null 2>&1 </dev/null &")

    def come() -> int:
        return int(two.run("wc -l </tmp/come").stdout)

    eventually(lambda: come() > 3, "something has come")
    with lan.partition([one], [two]) as cut:
        before = come()
        eventually(
            lambda: cut.counts.ways.get(("one", "two"), 0) > 3, "it was sent again and again", within=2 * GENEROUS
        )
        assert come() == before
    eventually(lambda: come() == 100, "all has come", within=2 * GENEROUS)
    assert two.run("cat /tmp/come").stdout.split() == [str(number) for number in range(1, 101)]


def test_a_cable_is_pulled_and_put_in_again(lan: PrivateNetwork, one: VirtualMachine, two: VirtualMachine) -> None:
    def carrier() -> str:
        return one.run(f"cat /sys/class/net/{one.interface(lan)}/carrier").stdout.strip()

    link = lan.link(one)
    with link.down():
        eventually(lambda: carrier() == "0", "the guest has seen it")
        with pytest.raises(NetworkError, match="is pulled already"):
            lan.link("one").down()
        assert two.run("ping -c1 -W1 one", check=False).exit_code == 1
    eventually(lambda: carrier() == "1", "the guest has seen it again")
    lan.link(one).down()
    assert not list(lan.end_test(failed=False))
    eventually(lambda: carrier() == "1", "it is in again when the test is over")
    two.run("ping -c1 -W10 one")


def test_a_machine_that_was_made_anew_has_its_faults(
    lan: PrivateNetwork, one: VirtualMachine, two: VirtualMachine
) -> None:
    """It is the machine's place on the network that has them, and not this or that QEMU."""
    one.run("touch /tmp/before")
    with one.checkpoint() as before, lan.partition(one, two) as cut:
        one.restore(before)
        assert one.run("ping -c1 -W1 two", check=False).exit_code == 1
        assert cut.counts.ways["one", "two"] > 0
    one.run("ping -c1 -W10 two")
