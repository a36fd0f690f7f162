"""What `auto` makes of a machine and its disk, and what cannot be asked for."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_readonly_vm import ConfigurationError, VmConfig
from pytest_readonly_vm.qemu.firmware import decide

UEFI_ONLY = SimpleNamespace(has_boot_code=False, loaders=("BOOTX64.EFI",))
BOTH = SimpleNamespace(has_boot_code=True, loaders=("BOOTX64.EFI",))
BIOS_ONLY = SimpleNamespace(has_boot_code=True, loaders=())
NEITHER = SimpleNamespace(has_boot_code=False, loaders=())
OF_ANOTHER = SimpleNamespace(has_boot_code=False, loaders=("BOOTAA64.EFI",))


def decided(layout: Any = BIOS_ONLY, arch: str = "x86_64", **settings: object) -> tuple[str, str]:
    config = VmConfig(image=Path("/base.qcow2")).replace(**settings)
    return decide(config, arch=arch, layout=lambda: layout)


@pytest.mark.parametrize(
    ("layout", "kind", "reason"),
    [
        (UEFI_ONLY, "uefi", "the image has BOOTX64.EFI in an EFI system partition and no boot code for a BIOS"),
        (BOTH, "bios", "usually"),
        (BIOS_ONLY, "bios", "usually"),
        (NEITHER, "bios", "no loader for UEFI"),
        (OF_ANOTHER, "bios", "no loader for UEFI"),
    ],
)
def test_a_disk_decides_what_boots_it(layout: Any, kind: str, reason: str) -> None:
    found, why = decided(layout)
    assert found == kind
    assert reason in why


def test_other_machines_boot_disks_by_uefi() -> None:
    for arch in ("aarch64", "arm", "riscv64"):
        assert decided(arch=arch) == ("uefi", f"{arch} machines of the type virt boot disks and CDs by nothing else")
        assert decided(arch=arch, image=None, cdrom="/x.iso")[0] == "uefi"
    assert decided(arch="s390x")[0] == decided(arch="aarch64", machine="raspi3b")[0] == "bios"


@pytest.mark.parametrize(
    ("layout", "cd", "kind"),
    [
        (None, {"bios"}, "bios"),
        (None, {"bios", "uefi"}, "bios"),
        (None, {"uefi"}, "uefi"),
        (None, (), "bios"),
        (NEITHER, {"uefi"}, "uefi"),
        (NEITHER, {"bios", "uefi"}, "bios"),
        (BIOS_ONLY, {"uefi"}, "bios"),
        (UEFI_ONLY, {"bios"}, "uefi"),
    ],
)
def test_a_cd_decides_where_the_disk_does_not(layout: Any, cd: Any, kind: str) -> None:
    found, why = decide(VmConfig(), arch="x86_64", layout=lambda: layout, cd=lambda: frozenset(cd))
    assert found == kind
    assert ("the CD boots by nothing else" in why) is (kind == "uefi" and layout is not UEFI_ONLY)


def test_whoever_gives_a_kernel_or_a_firmware_is_not_looked_at() -> None:
    def look() -> None:
        pytest.fail("the disk was read")

    for settings in ({"kernel": "/vmlinuz"}, {"qemu_args": "-bios /x"}, {"firmware": "uefi"}, {"firmware": "bios"}):
        decide(VmConfig(image=Path("/base")).replace(**settings), arch="x86_64", layout=look)
    assert decided(UEFI_ONLY, qemu_args="-drive if=pflash,readonly=on,file=/x") == (
        "bios",
        "there is one of the user's own: -drive if=pflash,readonly=on,file=/x",
    )
    assert decided(UEFI_ONLY, machine="q35,pflash0=code") == (
        "bios",
        "there is one of the user's own: machine q35,pflash0=code",
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"firmware": "bios", "arch": "aarch64"}, "firmware=bios is for x86 machines, and this one is aarch64"),
        ({"firmware": "uefi", "qemu_args": "-bios /x"}, r"firmware=uefi and a firmware of your own \(-bios /x\)"),
        ({"firmware": "uefi-secure", "kernel": "/vmlinuz"}, "is started whoever signed it"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        decided(**settings)
    assert str(caught.value).startswith("replace(firmware=…): ")
