"""Machines that die, and a switch that does: who waits hears of the right one, and the others go on."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_readonly_vm import GuestPanicked, Lab, NetworkError, QemuDied, SwitchDied, VirtualMachine, VmError
from pytest_readonly_vm.guest import addresses
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from tests.network.card_life import cards, meet
from tests.network.test_machine_types import tiny
from tests.qemu.waiting import GENEROUS, eventually

Start = Callable[..., VirtualMachine]


@pytest.fixture
def start(lab: Lab) -> Iterator[Start]:
    """Start a machine of a name."""
    machines: list[VirtualMachine] = []

    def one(name: str, *networks: PrivateNetwork, **settings: object) -> VirtualMachine:
        machines.append(vm := lab.start(tiny(**settings), name=name, networks=networks))
        return vm

    yield one
    for vm in machines:
        vm.close()


def panic(vm: VirtualMachine, lan: PrivateNetwork) -> None:
    vm.console.send("echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger\n")  # it does not boot again


def kill(vm: VirtualMachine, lan: PrivateNetwork) -> None:
    os.kill(vm.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("strike", "error", "words"),
    [
        (panic, GuestPanicked, "two: the guest's kernel panicked"),
        (kill, QemuDied, "two: QEMU was killed by SIGKILL"),
    ],
    ids=["panic", "kill"],
)
def test_of_a_machine_that_dies_hears_who_waits_for_it_and_the_others_go_on(
    strike: Callable[[VirtualMachine, PrivateNetwork], None],
    error: type[VmError],
    words: str,
    lan: PrivateNetwork,
    start: Start,
) -> None:
    one, two = start("one", lan), start("two", lan)
    meet(one, two, "one", "two")
    with ThreadPoolExecutor(2) as threads:
        its, other = threads.submit(two.run, "sleep 1000"), threads.submit(one.run, "sleep 3; echo done")
        strike(two, lan)
        with pytest.raises(error, match=words):
            its.result(GENEROUS)
        assert other.result(GENEROUS).stdout == "done\n"
    three = start("three", lan)  # of which two cannot be told
    meet(one, three, "one", "three")
    assert any("not told the names of others" in entry.what for entry in two.history.entries())
    two.reset()
    meet(one, two, "one", "two")
    meet(three, two, "three", "two")


def test_of_a_switch_that_dies_hears_who_waits_on_its_network_once_and_nobody_else(
    lab: Lab, lan: PrivateNetwork, start: Start
) -> None:
    elsewhere = lab.networks.make("elsewhere")
    one, two, apart = start("one", lan), start("two", lan, elsewhere), start("apart", elsewhere)
    there = one.checkpoint()
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(vm.run, "sleep 3; echo done") for vm in (one, two, apart)]
        os.kill(lan.pid, signal.SIGKILL)
        for work in waiting[:2]:
            with pytest.raises(SwitchDied, match=r"^network lan of \S+: its switch was killed by SIGKILL; every conn"):
                work.result(GENEROUS)
        assert waiting[2].result(GENEROUS).stdout == "done\n"
    assert one.run("echo alive").stdout == "alive\n"
    meet(two, apart, "two", "apart")
    assert isinstance(one.trouble, SwitchDied)
    for attempt in (lambda: apart.plug(lan), lambda: one.restore(there), lambda: start("late", lan)):
        with pytest.raises(SwitchDied, match="killed by SIGKILL"):
            attempt()
    assert one.run("echo alive").stdout == "alive\n"
    one.unplug(lan)
    meet(two, apart, "two", "apart")
    lab.networks.end(elsewhere)


def test_a_guest_in_which_no_card_can_be_set_up_is_told_and_leaves_nothing(
    lan: PrivateNetwork, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = start("one", lan), start("two")
    two.run("mount -t tmpfs none /sys")
    with monkeypatch.context() as hasty:
        hasty.setattr(addresses, "_PATIENCE", 0.5)
        with pytest.raises(NetworkError, match=r"^two: the guest finds no card \(52:54:.*\) within [0-9.]+ s\n"):
            two.plug(lan)
    assert list(lan.hosts) == ["one"]
    two.run("umount /sys")
    assert cards(two) == []
    two.reset()
    two.plug(lan)
    meet(one, two, "one", "two")


@pytest.mark.parametrize("hard", [False, True], ids=["in good order", "reset"])
def test_a_machine_that_boots_anew_is_on_its_networks_again(
    hard: bool, lab: Lab, lan: PrivateNetwork, start: Start
) -> None:
    one, two = start("one", lan), start("two")
    two.plug(lan)
    two.plug(other := lab.networks.make("other"))
    two.reboot(hard=hard)
    meet(one, two, "one", "two")
    assert two.run(f"ip -o addr show dev {two.interface(other)}").stdout.count(two.address(other)) == 1
    lab.networks.end(other)


def test_machines_that_are_started_at_once_all_know_each_other(lan: PrivateNetwork, start: Start) -> None:
    names = [f"vm{number}" for number in range(5)]
    first = start("first", lan)
    with ThreadPoolExecutor(len(names)) as threads:
        machines = list(threads.map(lambda name: start(name, lan), names))
    for vm in (first, *machines):
        hosts = vm.read_text("/etc/hosts").splitlines()
        assert sorted({line.split()[1] for line in hosts if "# private network" in line}) == ["first", *names]
        assert len([line for line in hosts if "# private network" in line]) == 2 * (1 + len(names))
    for vm, name in zip(machines, [*names[1:], "first"], strict=True):
        vm.run(f"ping -c1 -W{GENEROUS:g} {name}")


def test_a_machine_that_hangs_does_not_hold_up_others(lan: PrivateNetwork, start: Start) -> None:
    one, two = start("one", lan), start("two", lan, timeout_factor=1)
    os.kill(two.pid, signal.SIGSTOP)
    try:
        three = start("three", lan)
        meet(one, three, "one", "three")
        eventually(
            lambda: any("not told the names of others" in entry.what for entry in two.history.entries()), "it is noted"
        )
    finally:
        os.kill(two.pid, signal.SIGCONT)
    start("four", lan)
    meet(two, three, "two", "three")  # it has heard of both with the next one
