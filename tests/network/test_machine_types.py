"""Cards on the machine types that QEMU has, each of which has its own way to be plugged into while it runs."""

from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VmConfig
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.guests.tiny_uefi import tiny_uefi
from tests.network.card_life import cards, live, meet, refuses
from tests.qemu.waiting import GENEROUS
from tests.templates import templates


def tiny(**settings: object) -> VmConfig:
    """The tiny Linux for x86_64."""
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common: dict[str, object] = {
        "memory": "128M",
        "accel": ACCEL,
        "cache": templates(),
        "budget": "off",
        "boot_timeout": GENEROUS,
    }
    return VmConfig().replace(**files | common | settings)


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_cards_come_and_go_on(machine: str, lab: Lab) -> None:
    live(lab, tiny(machine=machine))


def test_cards_come_and_go_on_a_machine_that_a_uefi_firmware_has_booted(lab: Lab) -> None:
    guest = tiny_uefi()
    config = VmConfig().replace(
        image=guest.disk, memory="256M", accel=ACCEL, channel="shell", provision="none", machine="q35",
        cache=templates(), budget="off", boot_timeout=GENEROUS,
    )  # fmt: skip
    live(lab, config)


def test_there_are_ports_for_four_cards_and_the_fifth_is_refused(lab: Lab) -> None:
    networks = [lab.networks.make(f"lan{number}") for number in range(5)]
    one = lab.start(tiny(machine="q35"), name="one", networks=networks[:4])
    two = lab.start(tiny(machine="q35"), name="two", networks=networks[3:])
    assert cards(one) == ["eth1", "eth2", "eth3", "eth4"]
    meet(one, two, "one", "two")
    refuses(
        lambda: one.plug(networks[4]),
        r"one: no place is left for a card: each takes one of 4 spare ports of PCI Express, and all have one",
    )
    meet(one, two, "one", "two")
    assert list(networks[4].hosts) == ["two"]
    one.unplug(networks[0])
    one.plug(networks[4])
    assert one.run(f"ping -c1 -W{GENEROUS:g} {two.address(networks[4])}")
    for vm in (one, two):
        vm.close()


def test_a_cold_machine_of_which_all_ports_are_its_own_has_as_many_cards_as_it_is_started_with(lab: Lab) -> None:
    networks = [lab.networks.make(f"lan{number}") for number in range(6)]
    one = lab.start(tiny(machine="q35", start="cold"), name="one", networks=networks)
    assert len(cards(one)) == 6
    with one.checkpoint():
        assert len(cards(one)) == 6
    assert len(cards(one)) == 6
    one.reset()
    assert len(cards(one)) == 6
    one.close()


def test_a_machine_that_takes_no_card_while_it_runs_says_what_to_do(
    lab: Lab, boot_sector: object, tmp_path: Path
) -> None:
    network = lab.networks.make("lan")
    config = VmConfig().replace(
        image=boot_sector("hello"), memory="16M", accel=ACCEL, machine="microvm", ready="none",  # type: ignore[operator]
    )  # fmt: skip
    vm = lab.start(config, name="small")
    refuses(
        lambda: vm.plug(network),
        r"small: nothing can be plugged into a machine of the type microvm while it runs; say the setting networks, or "
        r"networks=\[…\] where it is started, with start=cold",
    )
    vm.close()
