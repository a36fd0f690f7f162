"""What a capsule says of itself, and what it may not say."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.config.settings import settings_in
from pytest_readonly_vm.errors import CapsuleRefused
from pytest_readonly_vm.evidence.capsule.manifest import (
    EMBEDDED,
    Manifest,
    SavedFirmware,
    devices_of,
    parse_manifest,
    settings_of,
)
from pytest_readonly_vm.evidence.capsule.saved_disk import BaseLayer, SavedDisk
from pytest_readonly_vm.qemu.card import Card, CardWire, card_arguments

CONFIG = VmConfig().replace(
    memory="256M", cpus=2, machine="q35,smm=off", append="console=ttyS0", qemu_args="-device usb-tablet",
    login="root", password="very secret", output="/tmp/elsewhere", seal="off", tmpdir="/tmp/elsewhere",
)  # fmt: skip

CARD = Card(number=2, mac="52:54:00:01:00:02", mtu=9000, boots=False, place=("spare1", "0x0"))


def manifest(**changes: Any) -> Manifest:
    known: dict[str, Any] = {
        "settings": settings_of(CONFIG),
        "disks": (
            SavedDisk(
                "disk0", "virtio", "disk0", 0, (BaseLayer("/images/base.qcow2", "qcow2", 1 << 20, 1 << 30, "ab" * 32),)
            ),
            SavedDisk("data", "scsi", "S-1", 64 << 20, ()),
        ),
        "qemu": "7.2.22",
        "arch": "x86_64",
        "accelerator": "tcg",
        "machine": "pc-q35-7.2",
        "devices": ("-smp 2",),
        "status": "running",
        "is_running": True,
        "cpu": ("avx2", "sse4.2"),
        "has_named_ram": True,
        "cards": (CARD,),
        "firmware": SavedFirmware("uefi", (3653632, 540672), needs_smm=False),
        "conversation": ("shell", {"folder": "/tmp/x", "number": 3}),
        "unread": 10,
        "sizes": {"state": 100, "disk0-0.qcow2": 200, "disk0-1.qcow2": 300, "disk-data-0.qcow2": 50, "kernel": 400},
        "name": "readonly_vm",
        "test": "tests/test_a.py::test_b",
        "saved": "2026-11-23T17:26:16+00:00",
    }
    return Manifest(**known | changes)


def test_it_comes_back_as_it_was() -> None:
    found = parse_manifest(manifest().to_json(), shown="x")
    assert found == manifest()
    assert found.overlays("disk0") == 2
    assert found.overlays("data") == 1
    with_cd = manifest(cdrom=BaseLayer("/images/install.iso", "raw", 1 << 20, 1 << 20, "cd" * 32))
    assert parse_manifest(with_cd.to_json(), shown="x") == with_cd
    without = manifest(conversation=None, firmware=None, disks=(), sizes={"state": 100})
    assert parse_manifest(without.to_json(), shown="x") == without


def test_one_from_before_there_was_a_firmware_to_choose_has_a_bios() -> None:
    told = json.loads(manifest().to_json())
    del told["firmware"]
    assert parse_manifest(json.dumps(told).encode(), shown="x").firmware == SavedFirmware("bios", (), needs_smm=False)


def test_one_from_before_there_were_private_networks_has_no_card() -> None:
    told = json.loads(manifest().to_json())
    del told["cards"]
    assert parse_manifest(json.dumps(told).encode(), shown="x").cards == ()


def test_it_has_what_shapes_the_machine_and_nothing_of_this_computer_or_secret() -> None:
    assert sorted(settings_of(CONFIG)) == ["append", "cpus", "machine", "memory", "qemu_args"]
    assert "secret" not in manifest().to_json().decode()


def test_every_setting_that_it_has_comes_back_from_json() -> None:
    others = {"memory": 2 << 20, "cpus": 2, "network": "none", "disk_interface": "usb", "channel": "ssh"}
    others |= {"provision": "none", "qemu_args": ["-device", "usb-tablet"], "firmware": "uefi", "tpm": True}
    names = set(settings_in(Part.CAPSULE)) - {*EMBEDDED}
    config = VmConfig().replace(**{name: others.get(name, "other") for name in names})
    found = parse_manifest(manifest(settings=settings_of(config)).to_json(), shown="x")
    assert found.settings.keys() == names
    assert VmConfig().replace(**found.settings) == config


def test_the_machine_is_that_of_the_version_that_saved_it() -> None:
    config = manifest().config(VmConfig().replace(seal="require", tmpdir="/tmp/mine"))
    assert (config.machine, config.memory, config.cpus, config.accel) == ("pc-q35-7.2,smm=off", 256 << 20, 2, "tcg")
    assert (config.seal, str(config.tmpdir), config.qemu_args) == ("require", "/tmp/mine", ("-device", "usb-tablet"))
    assert manifest(settings={}).config(VmConfig()).machine == "pc-q35-7.2"


def test_what_qemu_would_be_given_beyond_its_devices_is_told() -> None:
    assert manifest().extras == ("-machine", "q35,smm=off", "-device", "usb-tablet")
    assert manifest(settings={"machine": "q35", "append": "init=/bin/sh"}).extras == ()


def test_devices_are_compared_and_descriptors_are_not() -> None:
    one, other = (
        devices_of(("qemu", "-m", "size=1K", "-add-fd", f"fd={fd},set=1", "-device", "nvme", "-name", f"g{fd}"))
        for fd in (3, 4)
    )
    assert one == other == ("-m size=1K", "-device nvme")


def test_cards_on_private_networks_are_not_among_the_devices_that_are_compared() -> None:
    """A copy of a machine has on its command line what was plugged into that one."""
    card = card_arguments((CardWire(CARD, None),), "pci")
    assert devices_of(("qemu", "-device", "nvme", *card)) == devices_of(("qemu", "-device", "nvme"))


CARD_TOLD = dataclasses.asdict(CARD)
LAYER = {"path": "/base", "format": "raw", "size": 1, "virtual_size": 1, "sha256": "ab" * 32}
DISK_TOLD = {"name": "disk0", "interface": "virtio", "serial": "disk0", "size": 0, "image": [LAYER]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": {"seal": "off"}},
        {"settings": {"qemu": "/tmp/evil"}},
        {"settings": {"output": "/etc"}},
        {"settings": {"kernel": "/etc/shadow"}},
        {"settings": {"password": "x"}},
        {"settings": "none"},
        {"settings": [["memory", 1 << 20]]},
        {"settings": {"memory": "1G"}},
        {"settings": {"memory": 0}},
        {"settings": {"memory": True}},
        {"settings": {"memory": {"of": 1}}},
        {"settings": {"cpus": 1_000_000_000}},
        {"settings": {"cpus": -1}},
        {"settings": {"cpus": 1.5}},
        {"settings": {"machine": ["pc"]}},
        {"settings": {"network": "bridge"}},
        {"settings": {"append": None}},
        {"settings": {"append": "a\0b"}},
        {"settings": {"append": "a" * 100_000}},
        {"settings": {"qemu_args": ["-name", "\x1b[2J"]}},
        {"settings": {"qemu_args": "-device evil"}},
        {"settings": {"qemu_args": [1]}},
        {"disks": [DISK_TOLD | {"image": [LAYER | {"path": "relative"}]}]},
        {"disks": [DISK_TOLD | {"image": [LAYER | {"sha256": "short"}]}]},
        {"disks": [DISK_TOLD | {"image": [LAYER | {"format": "nbd"}]}]},
        {"disks": [DISK_TOLD | {"image": [LAYER | {"size": 1 << 100}]}]},
        {"disks": [DISK_TOLD | {"image": [LAYER | {"virtual_size": -1}]}]},
        {"disks": [DISK_TOLD | {"image": [{"path": "/base"}]}]},
        {"disks": [DISK_TOLD | {"image": [LAYER] * 1000}]},
        {"disks": [DISK_TOLD | {"image": {"path": "/base"}}]},
        {"disks": [DISK_TOLD | {"image": ["/base"]}]},
        {"disks": [DISK_TOLD | {"image": []}]},
        {"disks": [DISK_TOLD, DISK_TOLD]},
        {"disks": [DISK_TOLD] * 1000},
        {"disks": []},
        {"disks": "disk0"},
        {"disks": [DISK_TOLD | {"name": "disk1", "serial": "x,drive=other"}]},
        {"disks": [DISK_TOLD | {"name": "data,x"}]},
        {"disks": [DISK_TOLD | {"interface": "floppy"}]},
        {"disks": [DISK_TOLD | {"name": "data", "image": [], "size": 1}]},
        {"cdrom": LAYER | {"path": "relative"}},
        {"cdrom": LAYER | {"sha256": "short"}},
        {"cdrom": [LAYER]},
        {"arch": "../../tmp/evil"},
        {"arch": None},
        {"machine": "pc,firmware=/etc/shadow"},
        {"accelerator": "none"},
        {"accelerator": ["tcg"]},
        {"sizes": {"../../etc/passwd": 1}},
        {"sizes": {"state": -1}},
        {"sizes": {"state": "1"}},
        {"sizes": {"state": float("nan")}},
        {"sizes": {"state": 10**4000}},
        {"sizes": {"disk0-0.qcow2": True}},
        {"sizes": {"disk0-1.qcow2": 1}},
        {"sizes": {}},
        {"sizes": {"disk0-0.qcow2": 1, "user_data": 1 << 30}},
        {"sizes": []},
        {"conversation": ["ssh", {}]},
        {"conversation": [1]},
        {"conversation": ["shell", []]},
        {"conversation": ["shell", {"folder": ["a"]}]},
        {"conversation": "shell"},
        {"unread": None},
        {"is_running": "no"},
        {"has_named_ram": 1},
        {"firmware": [1]},
        {"firmware": {"kind": "own", "sizes": [1], "needs_smm": False}},
        {"firmware": {"kind": "uefi", "sizes": [1, 2, 3], "needs_smm": False}},
        {"firmware": {"kind": "uefi", "sizes": [-1], "needs_smm": False}},
        {"firmware": {"kind": "uefi", "sizes": [1], "needs_smm": "no"}},
        {"cards": "none"},
        {"cards": ["card"]},
        {"cards": [{}]},
        {"cards": [CARD_TOLD] * 100},
        {"cards": [CARD_TOLD] * 2},
        {"cards": [CARD_TOLD | {"number": 0}]},
        {"cards": [CARD_TOLD | {"number": "1,id=x"}]},
        {"cards": [CARD_TOLD | {"number": True}]},
        {"cards": [CARD_TOLD | {"number": 1e300}]},
        {"cards": [CARD_TOLD | {"mac": "52:54:00:01:00:02,rombar=1"}]},
        {"cards": [CARD_TOLD | {"mac": "52:54"}]},
        {"cards": [CARD_TOLD | {"mac": None}]},
        {"cards": [CARD_TOLD | {"mtu": -1}]},
        {"cards": [CARD_TOLD | {"mtu": "9000,romfile=/etc/shadow"}]},
        {"cards": [CARD_TOLD | {"boots": 1}]},
        {"cards": [CARD_TOLD | {"place": None}]},
        {"cards": [CARD_TOLD | {"place": "s1"}]},
        {"cards": [CARD_TOLD | {"place": ["pci.0"]}]},
        {"cards": [CARD_TOLD | {"place": ["pci.0", "4,romfile=/etc/shadow"]}]},
        {"cards": [CARD_TOLD | {"place": ["pci.0\n", "4"]}]},
        {"cards": [CARD_TOLD | {"place": [["pci.0"], 4]}]},
        {"cpu": "avx2"},
        {"cpu": ["\x1b[31m"]},
        {"devices": [1]},
        {"devices": "-device x"},
        {"name": 1},
        {"name": "n" * 100_000},
    ],
    ids=lambda wrong: str(wrong)[:60],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(CapsuleRefused, match="x has a manifest that makes no sense") as caught:
        parse_manifest(json.dumps({**json.loads(manifest().to_json()), **wrong}).encode(), shown="x")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format": "1"}', b"null"], ids=len)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CapsuleRefused, match="x has a manifest that makes no sense"):
        parse_manifest(data, shown="x")


def test_no_connection_leads_out_of_a_guest_unless_that_is_asked_for() -> None:
    assert manifest().config(VmConfig()).network == "restricted"
    assert manifest().config(VmConfig(), network=True).network == "user"
    for asked in (True, False):
        assert manifest(settings={"network": "none"}).config(VmConfig(), network=asked).network == "none"


def test_one_of_a_later_version_is_refused_by_name() -> None:
    later = json.dumps({"format": 7, "plugin": "9.0"}).encode()
    with pytest.raises(CapsuleRefused, match=r"x has the format 7 and .* reads 3; it was saved by version '9\.0'"):
        parse_manifest(later, shown="x")


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    found = parse_manifest(manifest(test="\x1b]0;evil\x07", name="a\nb").to_json(), shown="x")
    assert (found.test, found.name) == ("?]0;evil?", "a?b")
