"""What a capsule says of itself, and what it may not say."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.errors import CapsuleRefused
from pytest_readonly_vm.machine.capsule.manifest import (
    BaseLayer,
    Manifest,
    devices_of,
    parse_manifest,
    settings_of,
)

CONFIG = VmConfig().replace(
    memory="256M", cpus=2, machine="q35,smm=off", append="console=ttyS0", qemu_args="-device usb-tablet",
    login="root", password="very secret", output="/tmp/elsewhere", seal="off", tmpdir="/tmp/elsewhere",
)  # fmt: skip


def manifest(**changes: Any) -> Manifest:
    known: dict[str, Any] = {
        "settings": settings_of(CONFIG),
        "base": (BaseLayer("/images/base.qcow2", "qcow2", 1 << 30, "ab" * 32),),
        "qemu": "7.2.22",
        "arch": "x86_64",
        "accelerator": "tcg",
        "machine": "pc-q35-7.2",
        "devices": ("-smp 2",),
        "status": "running",
        "is_running": True,
        "has_named_ram": True,
        "conversation": ("shell", {"folder": "/tmp/x", "number": 3}),
        "unread": 10,
        "sizes": {"state": 100, "disk0.qcow2": 200, "disk1.qcow2": 300, "kernel": 400},
        "name": "readonly_vm",
        "test": "tests/test_a.py::test_b",
        "saved": "2026-11-23T17:26:16+00:00",
    }
    return Manifest(**known | changes)


def test_it_comes_back_as_it_was() -> None:
    found = parse_manifest(manifest().to_json(), shown="x")
    assert found == manifest()
    assert found.disks == 2
    assert parse_manifest(manifest(conversation=None, base=()).to_json(), shown="x").conversation is None


def test_it_has_what_shapes_the_machine_and_nothing_of_this_computer_or_secret() -> None:
    assert sorted(settings_of(CONFIG)) == ["append", "cpus", "machine", "memory", "qemu_args"]
    assert "secret" not in manifest().to_json().decode()


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"settings": {"seal": "off"}},
        {"settings": {"qemu": "/tmp/evil"}},
        {"settings": {"output": "/etc"}},
        {"settings": {"kernel": "/etc/shadow"}},
        {"settings": {"password": "x"}},
        {"settings": "none"},
        {"base": [{"path": "relative", "format": "raw", "virtual_size": 1, "sha256": "ab" * 32}]},
        {"base": [{"path": "/base", "format": "raw", "virtual_size": 1, "sha256": "short"}]},
        {"base": [{"path": "/base"}]},
        {"arch": "../../tmp/evil"},
        {"machine": "pc,firmware=/etc/shadow"},
        {"accelerator": "none"},
        {"sizes": {"../../etc/passwd": 1}},
        {"sizes": {"state": -1}},
        {"sizes": {"state": "1"}},
        {"sizes": {"disk0.qcow2": True}},
        {"conversation": ["ssh", {}]},
        {"conversation": [1]},
        {"unread": None},
        {"devices": [1]},
        {"name": 1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_in_one_sentence(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(CapsuleRefused, match="x has a manifest that makes no sense") as caught:
        parse_manifest(json.dumps({**json.loads(manifest().to_json()), **wrong}).encode(), shown="x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format": "1"}', b"null"], ids=len)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CapsuleRefused, match="x has a manifest that makes no sense"):
        parse_manifest(data, shown="x")


def test_an_impossible_value_is_refused() -> None:
    with pytest.raises(CapsuleRefused, match=r"impossible setting: .*memory"):
        manifest(settings={"memory": "much"}).config(VmConfig())


def test_one_of_a_later_version_is_refused_by_name() -> None:
    later = json.dumps({"format": 7, "plugin": "9.0"}).encode()
    with pytest.raises(CapsuleRefused, match=r"x has the format 7 and .* reads 1; it was saved by version '9\.0'"):
        parse_manifest(later, shown="x")


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    found = parse_manifest(manifest(test="\x1b]0;evil\x07", name="a\nb").to_json(), shown="x")
    assert (found.test, found.name) == ("?]0;evil?", "a?b")
