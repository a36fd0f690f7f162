"""What a machine has by default on each architecture: whole arguments, and what it cannot have."""

import pytest

from pytest_readonly_vm import ConfigurationError, VmConfig
from pytest_readonly_vm.host.qemu_features import Features
from pytest_readonly_vm.qemu import board
from tests.unit.test_command_line import line

CONFIG = VmConfig().replace(image="disk.img")
OLD_ARM = Features(max_cpu=frozenset({"pauth", "pauth-impdef"}), has_pvpanic_pci=True)


def value(words: list[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None


@pytest.mark.parametrize(
    ("arch", "machine", "cpu", "disk"),
    [
        ("x86_64", "pc", "max,-erms,-fsrm", "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc"),
        ("aarch64", "virt", "max", "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc"),
        ("arm", "virt", "max", "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc"),
        ("riscv64", "virt", None, "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc"),
        ("ppc64", "pseries", None, "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc"),
        ("s390x", "s390-ccw-virtio", "max", "virtio-blk-ccw,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc"),
        ("m68k", None, None, "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc"),
    ],
)
def test_each_architecture_has_a_machine_that_linux_knows(
    arch: str, machine: str | None, cpu: str | None, disk: str
) -> None:
    words = line(CONFIG, arch=arch)
    assert value(words, "-machine") == machine
    assert value(words, "-cpu") == cpu
    assert disk in words
    assert ("-vga" in words) is (arch == "x86_64")


def test_a_processor_is_one_that_the_emulator_has_and_is_quick_at() -> None:
    assert value(line(CONFIG, arch="aarch64", features=OLD_ARM), "-cpu") == "max,pauth-impdef=on"
    assert value(line(CONFIG, arch="aarch64", accelerator="kvm", features=OLD_ARM), "-cpu") == "max"
    assert value(line(CONFIG.replace(cpu_model="cortex-a57"), arch="aarch64", features=OLD_ARM), "-cpu") == "cortex-a57"
    assert value(line(CONFIG, arch="riscv64", features=Features(has_rva23=True)), "-cpu") == "rva23s64"


def test_a_guest_can_tell_of_its_panic_where_the_emulator_and_the_board_have_a_device() -> None:
    def has(arch: str, features: Features = OLD_ARM, **settings: object) -> bool:
        return "pvpanic-pci" in line(CONFIG.replace(**settings), arch=arch, features=features)

    assert has("aarch64")
    assert has("aarch64", machine="virt-7.2,gic-version=3")
    assert has("ppc64")
    assert not has("aarch64", Features())
    assert not has("aarch64", machine="raspi3b")
    assert not has("s390x")
    assert not has("x86_64")  # which has that of the ISA bus
    assert (
        line(CONFIG.replace(qemu_args="-device pvpanic-pci"), arch="aarch64", features=OLD_ARM).count("pvpanic-pci")
        == 1
    )


def test_a_disk_that_the_board_cannot_have_is_refused_with_those_that_it_can() -> None:
    with pytest.raises(ConfigurationError) as error:
        board.refuse_what_it_has_not(CONFIG.replace(disk_interface="ide"), "aarch64")
    assert str(error.value) == (
        "replace(disk_interface=…): disk_interface=ide is none of those that machines of the type virt (aarch64) have: "
        "virtio, scsi, sata, nvme, usb"
    )
    with pytest.raises(ConfigurationError, match=r"microvm \(x86_64\) have: virtio, scsi$"):
        board.refuse_what_it_has_not(CONFIG.replace(disk_interface="nvme", machine="microvm"), "x86_64")
    board.refuse_what_it_has_not(CONFIG.replace(disk_interface="ide"), "x86_64")
    board.refuse_what_it_has_not(CONFIG.replace(disk_interface="ide", machine="versatilepb"), "arm")


@pytest.mark.parametrize(
    ("machine", "family"),
    [
        ("pc", "pc"),
        ("pc-i440fx-7.2", "pc"),
        ("pc-q35-7.2,smm=on", "q35"),
        ("virt-10.0", "virt"),
        ("microvm", "microvm"),
    ],
)
def test_a_version_makes_no_other_family(machine: str, family: str) -> None:
    assert board.family(CONFIG.replace(machine=machine), "x86_64") == family
