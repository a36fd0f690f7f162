"""For which architecture a machine is taken to be, by what of real files, and what is refused."""

import gzip
import struct
from pathlib import Path
from uuid import UUID

import pytest

from pytest_readonly_vm import ConfigurationError, VmConfig
from pytest_readonly_vm.config.architectures import runs
from pytest_readonly_vm.host.qemu_binary import host_arch
from pytest_readonly_vm.image.disk_arch import archs_of
from pytest_readonly_vm.image.kernel_file import kernel_arch
from pytest_readonly_vm.image.layout import DiskLayout, Partition
from pytest_readonly_vm.qemu.architecture import choose_arch
from tests.guests.architectures import ARCHITECTURES
from tests.guests.archive import host_release
from tests.guests.tiny_linux import tiny_linux

_BUILT = [name for name, one in ARCHITECTURES.items() if one.ubuntu_kernel or host_release()[0] == "debian"]
_ROOTS = {"x86_64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "aarch64": "b921b045-1df0-41c3-af44-4c6f280d3fae"}
_ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")


class Disk(DiskLayout):
    """A disk with these partitions, loaders and boot code."""

    def __init__(
        self, *types: UUID | int, loaders: tuple[str, ...] = (), boot_code: bool = False, zipl: bool = False
    ) -> None:
        self._boot_code, self._zipl = boot_code, zipl
        self.partitions = tuple(Partition(kind, 1 << 20) for kind in types)
        self.loaders = loaders

    @property
    def has_boot_code(self) -> bool:
        return self._boot_code

    @property
    def has_zipl(self) -> bool:
        return self._zipl


def header(content: dict[int, bytes], size: int = 0x11000) -> bytes:
    made = bytearray(size)
    for place, part in content.items():
        made[place : place + len(part)] = part
    return bytes(made)


def pe(machine: int) -> bytes:
    return header({0: b"MZ\0\0zimg", 0x3C: struct.pack("<I", 0x80), 0x80: b"PE\0\0" + struct.pack("<H", machine)})


def elf(machine: int, order: str = "<") -> bytes:
    return header({0: b"\x7fELF\x02" + (b"\1" if order == "<" else b"\2"), 18: struct.pack(f"{order}H", machine)})


ARM64 = header({56: b"ARM\x64"})
KERNELS = {
    "bzImage": (header({0x202: b"HdrS\x0f\x02", 0x236: b"\x01"}), "x86_64"),
    "bzImage for 32 bits": (header({0x202: b"HdrS\x0f\x02", 0x236: b"\x00"}), "i386"),
    "bzImage of before there were flags": (header({0x202: b"HdrS\x03\x02", 0x236: b"\x01"}), "i386"),
    "ELF for PVH": (elf(62), "x86_64"),
    "ELF, big-endian": (elf(22, ">"), "s390x"),
    "ELF of a processor that is not known": (elf(0x1234), None),
    "Image": (ARM64, "aarch64"),
    "Image, packed": (gzip.compress(ARM64), "aarch64"),
    "EFI zboot": (pe(0xAA64), "aarch64"),
    "EFI zboot for RISC-V": (pe(0x5064), "riscv64"),
    "PE that ends before it says": (pe(0xAA64)[:0x82], None),
    "zImage, big-endian": (header({0x24: struct.pack(">I", 0x016F2818)}), "arm"),
    "nothing": (b"", None),
    "zeros": (bytes(4096), None),
    "packed, and cut off": (gzip.compress(ARM64)[:20], None),
}


@pytest.mark.parametrize("name", _BUILT)
def test_the_kernels_of_a_distribution_are_known(name: str) -> None:
    assert kernel_arch(tiny_linux(name).kernel) == name


@pytest.mark.parametrize(("content", "arch"), KERNELS.values(), ids=KERNELS)
def test_each_kind_of_kernel_is_known_by_its_header(tmp_path: Path, content: bytes, arch: str | None) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(content)
    assert kernel_arch(kernel) == arch


DISKS = {
    "root partition": (Disk(_ESP, UUID(_ROOTS["aarch64"])), {"aarch64"}),
    "root partition and boot code of a tool": (Disk(UUID(_ROOTS["aarch64"]), boot_code=True), {"aarch64"}),
    "loader": (Disk(_ESP, loaders=("BOOTRISCV64.EFI",)), {"riscv64"}),
    "loaders of two": (Disk(_ESP, loaders=("BOOTAA64.EFI", "BOOTX64.EFI")), {"aarch64", "x86_64"}),
    "loader and boot code of a tool": (Disk(0x83, loaders=("BOOTAA64.EFI",), boot_code=True), {"aarch64"}),
    "boot code": (Disk(0x83, boot_code=True), set()),
    "boot record of IBM Z": (Disk(0x83, boot_code=True, zipl=True), {"s390x"}),
    "boot loader of POWER": (Disk(0x41), {"ppc64"}),
    "blank": (Disk(), set()),
}


@pytest.mark.parametrize(("disk", "archs"), DISKS.values(), ids=DISKS)
def test_a_disk_tells_by_its_partitions_or_loaders(disk: DiskLayout, archs: set[str]) -> None:
    assert set(archs_of(disk)) == archs


def chosen(disk: DiskLayout | None = None, *, cd: DiskLayout | None = None, **settings: object) -> str:
    config = VmConfig().replace(**({} if "kernel" in settings else {"image": "disk.img"}), **settings)
    return choose_arch(config, layout=lambda: disk, cd=lambda: cd)


@pytest.fixture
def arm64_kernel(tmp_path: Path) -> Path:
    kernel = tmp_path / "Image"
    kernel.write_bytes(ARM64)
    return kernel


def test_the_emulator_that_is_named_decides_and_then_what_boots(arm64_kernel: Path) -> None:
    assert chosen(qemu="/opt/qemu/bin/qemu-system-riscv64") == "riscv64"
    assert chosen(arch="arm64") == "aarch64"
    assert chosen(kernel=arm64_kernel) == "aarch64"
    assert chosen(Disk(loaders=("BOOTRISCV64.EFI",))) == "riscv64"
    assert chosen(Disk(loaders=("BOOTAA64.EFI", "BOOTX64.EFI", "BOOTRISCV64.EFI"))) == host_arch()
    assert chosen(Disk(boot_code=True)) == "x86_64"
    assert chosen(Disk(boot_code=True, loaders=("BOOTAA64.EFI",)), arch="x86_64") == "x86_64"
    assert chosen(Disk()) == host_arch()


def test_a_cd_decides_where_the_disk_beside_it_tells_nothing() -> None:
    cd = Disk(loaders=("BOOTAA64.EFI",))
    assert chosen(Disk(), cd=cd, cdrom="x.iso") == "aarch64"
    assert chosen(Disk(loaders=("BOOTRISCV64.EFI",)), cd=cd, cdrom="x.iso") == "riscv64"
    assert chosen(Disk(boot_code=True), cd=cd, cdrom="x.iso") == "x86_64"
    with pytest.raises(ConfigurationError, match=r"cdrom .*x.iso .* is for aarch64, as BOOTAA64.EFI says"):
        chosen(Disk(), cd=cd, cdrom="x.iso", arch="riscv64")


def test_a_32_bit_guest_has_the_emulator_of_both_kinds_unless_the_other_is_named(tmp_path: Path) -> None:
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(KERNELS["bzImage for 32 bits"][0])
    assert chosen(kernel=kernel) == "x86_64"
    assert chosen(kernel=kernel, arch="i386") == "i386"
    assert chosen(kernel=kernel, qemu="qemu-system-x86_64") == "x86_64"


def test_the_disk_is_not_looked_at_where_a_kernel_boots(arm64_kernel: Path) -> None:
    config = VmConfig().replace(image="disk.img", kernel=arm64_kernel)
    assert choose_arch(config, layout=lambda: pytest.fail("it was looked at")) == "aarch64"


def test_what_is_for_another_architecture_is_refused_in_a_sentence(arm64_kernel: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        chosen(kernel=arm64_kernel, qemu="qemu-system-x86_64")
    assert str(error.value) == (
        f"kernel {arm64_kernel} (from replace(kernel=…)) is for aarch64, as its header says, and qemu-system-x86_64 "
        "(from replace(qemu=…)) runs guests of x86_64: say arch=aarch64, or neither arch nor qemu"
    )
    with pytest.raises(ConfigurationError, match=r"^image disk\.img .* is for aarch64, as BOOTAA64\.EFI says"):
        chosen(Disk(loaders=("BOOTAA64.EFI",)), arch="riscv64")
    with pytest.raises(ConfigurationError, match=r"^arch is riscv64 .*, and qemu-system-aarch64 .* runs guests"):
        chosen(arch="riscv64", qemu="qemu-system-aarch64")
    with pytest.raises(ConfigurationError, match="No such file"):
        chosen(kernel="missing")


@pytest.mark.parametrize(
    ("written", "arch"), [("amd64", "x86_64"), ("arm64", "aarch64"), ("armhf", "arm"), ("ppc64el", "ppc64")]
)
def test_an_architecture_has_the_names_that_others_give_it(written: str, arch: str) -> None:
    assert VmConfig().replace(arch=written).arch == arch


def test_a_name_that_nobody_gives_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"'aarch46' is no architecture .* \(did you mean 'aarch64'\?\)"):
        VmConfig().replace(arch="aarch46")


def test_an_emulator_runs_its_smaller_sibling_and_not_its_larger() -> None:
    assert runs("x86_64", "i386")
    assert not runs("i386", "x86_64")
    assert not runs("aarch64", "x86_64")
