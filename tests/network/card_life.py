"""Owns the life of a card, from plugging it in to the forks of its machine, which is the same on every machine type."""

import re
from collections.abc import Callable

import pytest

from pytest_readonly_vm import Lab, NetworkError, VirtualMachine, VmConfig
from tests.qemu.waiting import GENEROUS


def meet(one: VirtualMachine, other: VirtualMachine, *names: str) -> None:
    """See that each reaches the other by its name, by both versions of IP."""
    for vm, name in zip((one, other), reversed(names), strict=True):
        vm.wait_until_succeeds(f"ping -c1 -W5 {name} && ping -6 -c1 -W5 {name}", timeout=GENEROUS)


def cards(vm: VirtualMachine) -> list[str]:
    """What the guest has of network cards, beside that of QEMU's own network."""
    return sorted({*vm.run("ls /sys/class/net").stdout.split()} - {"eth0", "lo"})


def live(lab: Lab, config: VmConfig, *, unplugs: bool = True) -> None:
    """Two machines of a kind: one that is on a network from its start, one that is plugged into it and out of it.

    :param unplugs: whether the guest's kernel can let go of a card.
    """
    lan, other = (lab.networks.make(name) for name in ("lan", "other"))
    machines: list[VirtualMachine] = []

    def start(name: str, **options: object) -> VirtualMachine:
        machines.append(vm := lab.start(config, name=name, **options))  # type: ignore[arg-type]
        return vm

    try:
        one = start("one", networks=[lan])
        two = start("two")
        two.plug(lan)
        meet(one, two, "one", "two")
        assert (one.interface(lan), two.interface(lan)) == ("eth1", "eth1")
        assert (one.address(lan), two.address(lan, version=6)) == (str(lan.subnet[10]), str(lan.subnet6[11]))
        with pytest.raises(NetworkError, match=rf"two: it is on network lan already, as {two.address(lan)}"):
            two.plug(lan)
        there = two.checkpoint()
        if unplugs:
            two.unplug(lan)
            assert " two # " not in one.read_text("/etc/hosts")
            assert cards(two) == []
            with pytest.raises(NetworkError, match="network lan: two is not on it; one is"):
                two.address(lan)
        two.plug(other)
        two.restore(there)
        meet(one, two, "one", "two")
        with two.fork() as (copy,):
            assert cards(copy) == ["eth1"]  # which leads nowhere
            assert not copy.run(f"ping -c1 -W1 {one.address(lan)}", check=False)
        meet(one, two, "one", "two")
        two.reset()
        assert cards(two) == []
        assert list(lan.hosts) == ["one"]
        one.reset()
        assert (cards(one), one.address(lan)) == (["eth1"], str(lan.subnet[10]))
        two.plug(lan)
        meet(one, two, "one", "two")
    finally:
        for vm in machines:
            vm.close()
        for network in (lan, other):
            lab.networks.end(network)


def refuses(call: Callable[[], object], sentence: str) -> None:
    """See that something is refused in one sentence."""
    with pytest.raises(NetworkError) as caught:
        call()
    assert re.fullmatch(sentence, str(caught.value))
