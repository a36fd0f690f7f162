"""Guests that boot by UEFI: what decides that, whose their variables are, and that nobody writes the firmware."""

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pytest_readonly_vm import BaseImageChanged, BootFailed, ConfigurationError, Lab, VirtualMachine, VmConfig, layer
from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.evidence.capsule.opened import open_capsule
from pytest_readonly_vm.evidence.capsule.resume import resume_capsule
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from pytest_readonly_vm.host import firmware
from pytest_readonly_vm.qemu.firmware import Firmware
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import bootsector
from tests.guests.tiny_uefi import tiny_uefi
from tests.qemu.attacks import ATTACKS, ON_DISKS, Attack
from tests.qemu.firmware_here import copied, described, installed
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

VARIABLES = "/sys/firmware/efi/efivars"
GUID = "11111111-2222-3333-4444-555555555555"
SURE_TO_BITE = ("qmp pmemsave", "qmp migrate exec", "qmp screendump", "qmp chardev-add file", "qmp blockdev-add")
ON_FIRMWARE = {
    f"{name}-{attack.name}": (name, attack)
    for name, attacks in {
        "CODE.fd": ON_DISKS,
        "VARS.fd": tuple(attack for attack in ATTACKS if attack.name in SURE_TO_BITE),
    }.items()
    for attack in attacks
}


def tiny(**settings: object) -> VmConfig:
    known = {"image": tiny_uefi().disk, "memory": "256M", "accel": ACCEL, "channel": "shell", "provision": "none"}
    return VmConfig().replace(**known | {"start": "clone", "cache": templates(), "boot_timeout": GENEROUS} | settings)


def write(vm: VirtualMachine, name: str, value: str) -> None:
    """Attributes first, and all in one system call."""
    vm.run(f"printf '\\007\\000\\000\\000{value}' >/tmp/value; cat /tmp/value >{VARIABLES}/{name}-{GUID}")


def variables(vm: VirtualMachine) -> dict[str, str]:
    """Those of the tests."""
    told = vm.run(f"cd {VARIABLES}; for one in *-{GUID}; do [ -e $one ] && echo $one=$(tail -c +5 $one); done; :")
    return dict(line.replace(f"-{GUID}", "").split("=") for line in told.stdout.split())


def digests(*paths: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def vm(lab: Lab) -> Iterator[VirtualMachine]:
    vm = lab.start(tiny(), name="tiny")
    yield vm
    vm.close()


def test_an_image_that_only_uefi_boots_gets_it_and_it_is_said(vm: VirtualMachine) -> None:
    why = "the image has BOOTX64.EFI in an EFI system partition and no boot code for a BIOS"
    assert vm.firmware == f"uefi, as {why}"
    assert "runtime" in vm.run("ls /sys/firmware/efi").stdout


def test_what_a_guest_writes_to_its_variables_is_its_own_and_goes_with_it(
    lab: Lab, vm: VirtualMachine, tmp_path: Path
) -> None:
    """A flash device is memory to QEMU: it is in a guest's state, and what is written in a copy goes nowhere else."""
    found = installed()
    assert found.variables is not None
    files = (found.code.path, found.variables.path, tiny_uefi().disk)
    before = digests(*files)
    write(vm, "First", "one")
    with closing(lab.start(tiny(), name="another")) as another:
        assert variables(another) == {}
    with vm.checkpoint():
        write(vm, "Second", "two")
        with vm.fork() as (fork,):
            assert variables(fork) == {"First": "one", "Second": "two"}
            write(fork, "Third", "three")
        save_capsule(vm, tmp_path / "tiny.vmcapsule")
        assert variables(vm) == {"First": "one", "Second": "two"}
    assert variables(vm) == {"First": "one"}
    with Lab() as elsewhere, open_capsule(tmp_path / "tiny.vmcapsule") as capsule, pytest.MonkeyPatch.context() as gone:
        gone.setattr(firmware, "_FOLDER", Path("nowhere"))  # a capsule needs no firmware to be installed
        assert variables(resume_capsule(elsewhere, capsule)) == {"First": "one", "Second": "two"}
    vm.reboot(hard=True, timeout=GENEROUS)
    assert variables(vm) == {"First": "one"}
    vm.reset()
    assert variables(vm) == {}
    assert digests(*files) == before
    lab.check_bases(during="the test")


@layer
def written(vm: VirtualMachine) -> None:
    write(vm, "Layer", "one")


def test_a_layer_has_the_variables_of_those_below(lab: Lab) -> None:
    with closing(lab.start(tiny(layers=[written]), name="layered")) as vm:
        assert vm.manner == "clone"
        assert variables(vm) == {"Layer": "one"}


def test_secure_boot_refuses_what_nobody_has_signed(lab: Lab) -> None:
    with pytest.raises(BootFailed) as caught:
        lab.start(tiny(firmware="uefi-secure"), name="tiny")
    assert str(caught.value).startswith("tiny: Secure Boot has refused what the image boots (UEFI ")
    assert "Access Denied)" in str(caught.value)
    assert "(replace(firmware=…): firmware=uefi-secure); firmware=uefi boots it unsigned" in str(caught.value)


def test_a_disk_without_a_loader_is_told_from_a_guest_that_is_slow(lab: Lab, tmp_path: Path) -> None:
    image = bootsector.write_image(tmp_path / "bios.img", bootsector.writer(READY))
    with pytest.raises(BootFailed, match=r"the firmware found nothing to boot \(UEFI .*: Not Found\); the"):
        lab.start(tiny(image=image, firmware="uefi", start="cold"), name="bios")


def test_whoever_waits_for_what_a_firmware_says_in_the_end_gets_it(
    lab: Lab, small: Callable[..., VmConfig], tmp_path: Path
) -> None:
    """As if such a firmware had said it, which takes one that comes to its end a dozen seconds."""
    says = bootsector.hello("BdsDxe: No bootable option or device was found.\n")
    gave_up = small(bootsector.write_image(tmp_path / "gave-up.img", says), start="cold")

    def booted(ready: str) -> None:
        said = Firmware(kind="uefi", reason="the test says so")
        spec = lab.spec(gave_up.replace(ready=ready), "guest", firmware=said)
        lab.adopt(lambda maker: maker.cold(spec)).close()

    booted("console:No bootable option")
    with pytest.raises(BootFailed, match="the firmware found nothing to boot"):
        booted("console:nothing like it")


def test_an_image_that_only_uefi_boots_says_so_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(firmware, "_FOLDER", Path("nowhere"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with Lab() as lab, pytest.raises(HostError, match=r"boots by uefi, as the image has BOOTX64.EFI .* install ovmf"):
        lab.start(tiny(), name="tiny")


def test_secure_boot_on_a_machine_that_cannot_keep_its_keys_is_a_sentence(lab: Lab) -> None:
    with pytest.raises(ConfigurationError, match=r"in q35 and not in pc \(from replace\(machine=…\)\)"):
        lab.start(tiny(firmware="uefi-secure", machine="pc"), name="tiny")


@pytest.mark.parametrize(("name", "attack"), ON_FIRMWARE.values(), ids=ON_FIRMWARE)
def test_a_sealed_machine_leaves_its_firmware_as_it_was(
    boot: Callable[..., VirtualMachine],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    attack: Attack,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "firmware"
    folder.mkdir(exist_ok=True)
    paths = copied(folder, monkeypatch)
    before = digests(*paths)
    arguments = ("-audiodev", "none,id=snd0")
    vm = boot("writer", firmware="uefi", ready="none", seal="require", start="cold", qemu_args=arguments)
    attack(vm, folder / name)
    vm.close()
    assert digests(*paths) == before


@pytest.mark.parametrize("name", ["CODE.fd", "VARS.fd"])
def test_firmware_that_changes_while_it_is_used_is_told(
    small: Callable[..., VmConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    copied(tmp_path, monkeypatch)
    config = small("writer", firmware="uefi", ready="none", start="cold")
    with Lab() as lab:
        lab.start(config, name="first")
        assert tmp_path / "CODE.fd" in lab.check_bases(during="nothing")
        (tmp_path / name).touch()
        with pytest.raises(BaseImageChanged, match=f"^the firmware is no longer what it was: .*{name} was"):
            lab.check_bases(during="it")
        with pytest.raises(BaseImageChanged, match=r"CODE\.fd is not used any more"):
            lab.start(config, name="second")


def a_mapping(kind: str, folder: Path) -> dict[str, object]:
    """The host's firmware mapped otherwise. Debian's ovmf has it in one file as well, as others' packages have."""
    found = installed()
    assert found.variables is not None
    if kind == "qcow2":
        files = []
        for number, file in enumerate((found.code, found.variables)):
            path = folder / f"{number}.qcow2"
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", file.path, path], check=True)
            files.append({"filename": str(path), "format": "qcow2"})
        return {"device": "flash", "mode": "split", "executable": files[0], "nvram-template": files[1]}
    # Which is how the two are in one flash device: https://github.com/tianocore/edk2/blob/master/OvmfPkg/README
    whole = folder / "whole.fd"
    with whole.open("wb") as target:
        for file in (found.variables, found.code):
            with file.path.open("rb") as source:
                shutil.copyfileobj(source, target)
    if kind == "memory":
        return {"device": "memory", "filename": str(whole)}
    executable = {"filename": str(found.code.path if kind == "stateless" else whole), "format": "raw"}
    return {"device": "flash", "mode": kind, "executable": executable}


@pytest.mark.parametrize("kind", ["qcow2", "combined", "memory"])
def test_a_firmware_runs_however_it_is_mapped_and_so_do_its_copies(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(tmp_path, monkeypatch, installed().descriptor, a_mapping(kind, tmp_path))
    with Lab() as lab:
        vm = lab.start(tiny(no_cache=True, channel="none", ready="console:BdsDxe: loading Boot"), name="tiny")
        assert vm.manner == "clone"
        vm.console.expect("BdsDxe: starting Boot", timeout=GENEROUS)
