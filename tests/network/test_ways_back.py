"""Machines and networks after what was undone, failed halfway or came too late: all is as it is said to be."""

import signal
from collections.abc import Callable, Iterator

import pytest

from pytest_readonly_vm import GuestPaused, Lab, StartFailed, VirtualMachine, VmConfig, VmError
from pytest_readonly_vm.errors import NetworkError, SwitchDied
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.start import maker
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.network.card_life import cards
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates

Start = Callable[..., VirtualMachine]


@pytest.fixture
def start(lab: Lab) -> Iterator[Start]:
    machines: list[VirtualMachine] = []
    tiny = tiny_linux()
    files = {"image": tiny.disk, "kernel": tiny.kernel, "initrd": tiny.initrd, "append": tiny.append}
    common = {"memory": "96M", "accel": ACCEL, "cache": templates(), "boot_timeout": 5 * GENEROUS}
    config = VmConfig().replace(**files, **common, start="clone")

    def start(name: str, *networks: PrivateNetwork, **settings: object) -> VirtualMachine:
        machines.append(lab.start(config.replace(**settings), name=name, networks=networks, host=name))
        return machines[-1]

    yield start
    for vm in machines:
        vm.close()


@pytest.fixture
def lan(lab: Lab) -> Iterator[PrivateNetwork]:
    network = lab.networks.make("lan")
    yield network
    lab.networks.end(network)


def reaches(one: VirtualMachine, other: VirtualMachine, lan: PrivateNetwork) -> bool:
    return one.run(f"ping -c1 -W{GENEROUS:g} {other.address(lan)}", check=False).ok


def test_nobody_misses_the_cable_of_a_card_that_is_gone(lan: PrivateNetwork, start: Start) -> None:
    vm = start("one")
    before = vm.checkpoint()
    vm.plug(lan)
    lan.link(vm).down()
    vm.restore(before)
    assert list(lan.end_test(failed=False)) == []
    vm.plug(lan)
    lan.link(vm).down()
    vm.unplug(lan)
    assert list(lan.end_test(failed=False)) == []


def test_a_machine_that_goes_back_has_its_cable_in(lan: PrivateNetwork, start: Start) -> None:
    one, two = start("one", lan), start("two", lan)
    with lan.link(two).down() as cable:
        cut = two.checkpoint()
    two.restore(cut)
    assert not cable.is_on
    assert lan.link(two).is_up
    assert reaches(one, two, lan)


def test_who_cannot_go_back_stays_where_it_is(
    lan: PrivateNetwork, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = start("one", lan), start("two", lan)
    there = two.checkpoint()
    with monkeypatch.context() as patched:
        patched.setattr(maker, "load_state", _refuse)
        with pytest.raises(StartFailed, match="made to fail"):
            two.restore(there)
    assert reaches(one, two, lan)
    with monkeypatch.context() as patched:
        patched.setattr(maker, "load_state", _refuse)
        together = lan.checkpoint()
        with pytest.raises(StartFailed, match="made to fail"):
            lan.restore(together)
    assert reaches(one, two, lan)
    address = two.address(lan)
    two.unplug(lan)
    three = start("three")
    three.plug(lan, address=address)
    with pytest.raises(NetworkError, match=rf"{address} is another machine's by now"):
        two.restore(there)
    assert cards(two) == []
    assert (list(lan.hosts), dict(two.places)) == (["one", "three"], {})
    assert reaches(three, one, lan)  # of which the other hears whose the address is now


async def _refuse(*_: object, **__: object) -> None:
    raise StartFailed("made to fail")


@pytest.mark.parametrize("manner", ["clone", "cold"])
def test_a_machine_that_is_reset_is_where_it_was_started(lan: PrivateNetwork, start: Start, manner: str) -> None:
    one, two = start("one", lan, start=manner), start("two", lan)
    one.unplug(lan)
    one.reset()
    assert reaches(two, one, lan)


def test_what_is_closed_does_not_come_back(lan: PrivateNetwork, start: Start) -> None:
    one, two = start("one", lan), start("two", lan)
    together = lan.checkpoint()
    one.close()
    for again in (one.reset, one.restore, one.checkpoint, one.fork):
        with pytest.raises(VmError, match=r"one: [a-z]+\(\) is for a machine that is there; this one has been closed"):
            again()
    with pytest.raises(VmError, match="one moment as long as all of its machines are there; closed: one"):
        lan.restore(together)
    assert not one.is_running()
    two.run("true")


def test_a_dead_switch_does_not_hold_other_networks(lab: Lab, lan: PrivateNetwork, start: Start) -> None:
    other = lab.networks.make("other")
    one, two = start("one", lan, other), start("two", lan)
    together = lan.checkpoint()
    signal.pidfd_send_signal(other._switch.process._pidfd, signal.SIGKILL)
    eventually(lambda: other._switch.process.returncode is not None, "the end of the switch", within=GENEROUS)
    with pytest.raises(SwitchDied, match="network other"):
        lan.restore(together)
    assert reaches(one, two, lan)
    lab.networks.end(other)


def test_taking_a_card_out_is_gone_on_with(lan: PrivateNetwork, start: Start) -> None:
    vm = start("one")
    vm.plug(lan)
    vm.pause()
    with pytest.raises(GuestPaused):
        vm.unplug(lan)
    vm.resume()
    vm.unplug(lan)
    assert (cards(vm), vm.instance.cards) == ([], [])
    vm.plug(lan)
    assert cards(vm) == [vm.interface(lan)]


def test_a_card_that_could_not_be_set_up_takes_no_place(lan: PrivateNetwork, start: Start) -> None:
    vm = start("one")
    vm.run("rm -f /etc/hosts && mkdir /etc/hosts")
    with pytest.raises(NetworkError, match="cannot be set up in the guest"):
        vm.plug(lan)
    assert (cards(vm), vm.instance.cards, list(lan.hosts)) == ([], [], [])
    vm.run("rmdir /etc/hosts")
    vm.plug(lan)
    assert cards(vm) == [vm.interface(lan)]
