"""Cards are addressed by root's hand whatever the guest has for that, and nothing of the guest's takes it back."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests.debian import debian
from tests.guests.tiny_linux import tiny_linux
from tests.network.plugs import plugged
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

A_LONG_TIME = 1200
WHOLE = {"accel": ACCEL, "cache": templates(), "network": "none"}


@pytest.fixture(scope="module")
def tiny(lab: Lab) -> VirtualMachine:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    return lab.start(VmConfig().replace(**files, **WHOLE, boot_timeout=GENEROUS, memory="128M"), name="tiny")


@pytest.fixture
def network(lab: Lab) -> Iterator[Callable[..., PrivateNetwork]]:
    made: list[PrivateNetwork] = []

    def make(name: str, **options: Any) -> PrivateNetwork:
        made.append(lab.networks.make(name, gateway="router", **options))
        return made[-1]

    yield make
    for one in made:
        lab.networks.end(one)


@pytest.mark.parametrize("program", ["ip", "ifconfig"])
def test_with_the_one_or_the_other_program(
    tiny: VirtualMachine, network: Callable[..., PrivateNetwork], program: str
) -> None:
    lan = network(program)
    with tiny.checkpoint():
        if program == "ifconfig":
            tiny.run("rm /bin/ip")
        tiny.plug(lan)
        card = tiny.interface(lan)
        addresses = tiny.run(f"ifconfig {card}").stdout
        assert f"inet addr:{tiny.address(lan)} " in addresses
        assert "Mask:255.255.255.0" in addresses
        assert f"inet6 addr: {tiny.address(lan, version=6)}/64 Scope:Global" in addresses
        routes = [row.split() for row in tiny.run("route -n").stdout.splitlines()]
        assert ["0.0.0.0", str(lan.subnet[2]), "0.0.0.0", card] in [[*row[:3], row[-1]] for row in routes]
        assert f" {lan.subnet6[2]} " in tiny.run("route -n -A inet6").stdout


# As udev does, which writes down that it renames a card before it does so.
RENAMES = """
mkdir -p /run/udev/data && : >/run/udev/control
(
    while ! read -r number </sys/class/net/eth0/ifindex; do usleep 1000; done
    echo E:ID_RENAMING=1 >/run/udev/data/n$number
    sleep 2
    ip link set eth0 name lan7
    printf 'I:1\\nE:ID_RENAMING=1\\n' >/run/udev/data/n$number
) </dev/null >/dev/null 2>&1 &
"""


def test_a_card_that_is_being_renamed_is_set_up_under_its_new_name(
    tiny: VirtualMachine, network: Callable[..., PrivateNetwork]
) -> None:
    lan = network("renamed")
    with tiny.checkpoint():
        tiny.run(RENAMES)
        tiny.plug(lan)
        assert tiny.interface(lan) == "lan7"
        assert f"inet {tiny.address(lan)}/24" in tiny.run("ip addr show dev lan7").stdout


def test_without_ipv6(tiny: VirtualMachine, network: Callable[..., PrivateNetwork]) -> None:
    lan = network("old")
    with tiny.checkpoint():
        tiny.run("for one in all default; do echo 1 >/proc/sys/net/ipv6/conf/$one/disable_ipv6; done")
        tiny.plug(lan)
        addresses = tiny.run(f"ip addr show dev {tiny.interface(lan)}").stdout
        assert f"inet {tiny.address(lan)}/24" in addresses
        assert "inet6" not in addresses


def test_names_come_where_their_file_cannot_be_written(
    tiny: VirtualMachine, network: Callable[..., PrivateNetwork]
) -> None:
    lan = network("sealed")
    with tiny.checkpoint():
        tiny.run("echo '127.0.0.1 itself' >/etc/hosts && mount --bind /etc/hosts /etc/hosts")
        tiny.run("mount -o remount,ro,bind /etc/hosts")
        tiny.plug(lan)
        with plugged(lan, "one"):
            tiny.unplug(lan)
            tiny.plug(lan)
            names = [line.split()[:2] for line in tiny.run("cat /etc/hosts").stdout.splitlines()]
            assert names[0] == ["127.0.0.1", "itself"]
            assert sorted(names[1:]) == sorted(
                [str(address), host]
                for host, member in lan._members.items()
                for address in (member.address.ipv4, member.address.ipv6)
            )


def test_a_guest_in_which_nobody_is_root_is_refused(
    lab: Lab, network: Callable[..., PrivateNetwork], boot_sector: Callable[[str], Path]
) -> None:
    config = VmConfig().replace(
        **WHOLE, image=boot_sector("hello"), ready=f"console:{READY}", memory="16M", channel="none", start="cold"
    )
    lan = network("lan")
    with pytest.raises(NetworkError, match=r"its card on network lan is not set up: .* channel=none says") as refused:
        lab.start(config, name="appliance", networks=[lan])
    assert refused.value.__notes__ == [
        "where guests are to set up their cards by themselves: vm_private_network(…, dhcp=True) or configure=False"
    ]
    assert not lan.hosts
    lab.start(config, name="appliance", networks=[network("free", configure=False)]).close()


@pytest.mark.timeout(A_LONG_TIME)
def test_networkd_keeps_its_hands_off_and_asks_where_it_is_to(lab: Lab, network: Callable[..., PrivateNetwork]) -> None:
    """Debian's is told to ask on every card by DHCP."""
    ours, its = network("ours"), network("its", dhcp=True, dns=True)
    config = VmConfig().replace(**WHOLE, image=debian(), boot_timeout=600.0)
    vm = lab.start(config, name="debian", networks=[ours, its])
    assert vm.wait_for_address(its) == vm.address(its)
    vm.run("networkctl reload && systemctl restart systemd-networkd")
    for card in (vm.interface(ours), vm.interface(its)):
        vm.run(f"ip link set {card} down && ip link set {card} up")
        vm.wait_until_succeeds(f"networkctl status {card} | grep -F '(configured)'")
    assert vm.wait_for_address(its) == vm.address(its)
    addresses = vm.run(f"ip addr show dev {vm.interface(ours)}").stdout
    assert f"inet {vm.address(ours)}/24" in addresses
    assert f"inet6 {vm.address(ours, version=6)}/64" in addresses
    vm.close()
