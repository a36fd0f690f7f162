"""A whole Debian that nothing but UEFI boots: signed from shim to kernel with a btrfs, and from a logical volume."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from tests.accelerator import ACCEL
from tests.guests.debian_uefi import debian_uefi
from tests.templates import templates

pytestmark = pytest.mark.timeout(2400)

VARIABLES = "/sys/firmware/efi/efivars"
BOOT_SECONDS = 600
"""Generous: firmware and Debian together take more than half a minute of a processor that other guests use as well."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def started(lab: Lab, image: Path, **settings: object) -> VirtualMachine:
    """A copy of a guest that has booted."""
    config = VmConfig().replace(image=image, accel=ACCEL, cache=templates(), boot_timeout=BOOT_SECONDS, **settings)
    vm = lab.start(config, name=image.stem)
    assert (vm.manner, vm.reason) == ("clone", "")
    return vm


def test_what_is_signed_boots_by_secure_boot_from_btrfs_and_so_do_its_copies(lab: Lab) -> None:
    with closing(started(lab, debian_uefi().shim, firmware="uefi-secure")) as vm:
        assert vm.firmware == "uefi-secure, as asked for by replace(firmware=…)"
        for _ in range(2):
            # Four bytes of attributes, and the value.
            assert vm.run(f"od -An -tx1 {VARIABLES}/SecureBoot-*").stdout.split() == ["06", "00", "00", "00", "01"]
            log = vm.run("dmesg").stdout
            assert "secureboot: Secure boot enabled" in log
            assert "Kernel is locked down from EFI Secure Boot" in log
            assert vm.run("head -c1 /dev/mem", check=False).exit_code != 0
            assert vm.run("findmnt -n -o FSTYPE /").stdout.strip() == "btrfs"
            assert vm.run("ls /root/kept", check=False).exit_code != 0
            vm.run("echo kept >/root/kept; sync")
            vm.reset()


def test_a_root_on_a_logical_volume_boots_by_systemd_boot(lab: Lab) -> None:
    with closing(started(lab, debian_uefi().lvm)) as vm:
        assert vm.firmware.startswith("uefi, as the image has BOOTX64.EFI")
        assert vm.run("findmnt -n -o SOURCE /").stdout.strip() == "/dev/mapper/debian-root"
        assert "systemd-boot" in vm.run(f"tr -d '\\0' <$(ls {VARIABLES}/LoaderInfo-*)").stdout
