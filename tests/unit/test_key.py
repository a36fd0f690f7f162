"""What of the settings and of this computer is in the name of a frozen guest."""

import contextlib
import dataclasses
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import VmConfig, cluster
from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.config.settings import SETTINGS
from pytest_readonly_vm.host.hypervisor import find_hypervisor
from pytest_readonly_vm.host.qemu_binary import find_qemu_img, host_arch
from pytest_readonly_vm.host.stopwatch import Stopwatch
from pytest_readonly_vm.host.watch import nobody
from pytest_readonly_vm.image.base import open_base
from pytest_readonly_vm.image.bases import Bases
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.qemu.disk_spec import DiskSpec, disk_specs
from pytest_readonly_vm.qemu.firmware import Firmware
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.sources.image_sources import ImageSources
from pytest_readonly_vm.start import key
from pytest_readonly_vm.start.recipe import Recipe, Untravelled
from tests.accelerator import ACCEL
from tests.unit.test_layer import installed

OTHER_VALUES = {
    "image": "other",
    "format": "raw",
    "cdrom": "other",
    "image_store": "other",
    "image_store_size": "1G",
    "image_timeout": "3",
    "memory": "2G",
    "cpus": 2,
    "cpu_model": "qemu64",
    "machine": "q35",
    "firmware": "uefi",
    "tpm": True,
    "accel": "kvm",
    "qemu": "other",
    "arch": "aarch64",
    "kernel": "other",
    "initrd": "other",
    "append": "other",
    "disk_interface": "scsi",
    "disks": "data:64M",
    "network": "none",
    "networks": "lan",
    "qemu_args": "-vga none",
    "snapshot": "overlay",
    "keep": "always",
    "evidence": "on",
    "capsule": "on-failure",
    "output": "other",
    "report": "other",
    "panic_pattern": "other",
    "health": "units",
    "health_allow": "other",
    "tmpdir": "other",
    "verify": "hash",
    "seal": "off",
    "channel": "ssh",
    "provision": "none",
    "user_data": "other",
    "login": "root",
    "password": "other",
    "login_prompt": "other",
    "password_prompt": "other",
    "boot_timeout": 1,
    "test_timeout": 1,
    "timeout_factor": 2,
    "ready": "systemd",
    "start": "cold",
    "layers": installed,
    "cluster": cluster(lambda new: None),
    "machine_id": "new",
    "prove_pristine": True,
    "prefetch": 1,
    "cache": "other",
    "cache_size": "1G",
    "cache_from": "other",
    "cache_signers": "other",
    "cache_unsigned": True,
    "no_cache": True,
    "budget": "off",
    "reset": "each-test",
    "scope": "module",
    "monitor": True,
    "shard": "1/2",
    "durations": "other",
    "store_durations": True,
}
"""Of every setting, one that it does not have otherwise. Paths are in a folder of the test's."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in {"kvm/parameters/ignore_msrs": "N", "kvm_intel/parameters/nested": "Y"}.items():
        (tmp_path / "sys/module" / name).parent.mkdir(parents=True)
        (tmp_path / "sys/module" / name).write_text(f"{value}\n")
    return tmp_path


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MachineSpec]:
    image = tmp_path_factory.mktemp("images") / "base.img"
    image.write_bytes(bytes(1 << 20))
    hypervisor = find_hypervisor(VmConfig(accel=ACCEL), arch=host_arch(), qemu_img=find_qemu_img(None))
    with contextlib.closing(open_base(image, format="raw", origin="the test", qemu_img=hypervisor.qemu_img)) as base:
        disk = DiskSpec(name="disk0", interface="virtio", serial="disk0", base=base)
        firmware = Firmware(kind="bios", reason="the test says so")
        yield MachineSpec(config=VmConfig(), name="guest", hypervisor=hypervisor, disks=(disk,), firmware=firmware)


def test_every_setting_is_tried() -> None:
    assert OTHER_VALUES.keys() == SETTINGS.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_what_shapes_a_guest_until_it_is_ready_is_in_its_name(
    name: str, spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which emulator runs it, and the content of its image, are not by the settings that these are found by."""
    monkeypatch.chdir(tmp_path)
    for file in ("kernel", "other"):
        Path(file).touch()
    usual = VmConfig().replace(kernel=tmp_path / "kernel", initrd=tmp_path / "kernel", channel="shell")
    other = usual.replace(**{name: OTHER_VALUES[name]})

    bases = Bases(ImageSources(lambda sentence: None, nobody, Stopwatch()))

    def key_of(config: VmConfig) -> str:
        disks = disk_specs(config, spec.base, bases, qemu_img=spec.hypervisor.qemu_img)
        return key.key_of(dataclasses.replace(spec, config=config, disks=disks))

    assert getattr(usual, name) != getattr(other, name)
    shapes = bool(SETTINGS[name].parts & (Part.CAPSULE | Part.KEY)) or name == "disks"
    assert (key_of(usual) != key_of(other)) is shapes


NAMED = [
    "-fw_cfg name=opt/x,file={file}",
    "-fw_cfg name=opt/x,file={relative}",
    "-fw_cfg name=opt/x,file={odd}",
    """-blockdev '{{"driver":"raw","read-only":true,"file":{{"driver":"file","filename":"{file}"}}}}'""",
    "-drive file={above},readonly=on,if=none",
    """-drive 'file=json:{{"driver":"qcow2",,"file":{{"driver":"file",,"filename":"{above}"}}}},readonly=on,if=none'""",
    "-drive file=file:{relative},readonly=on,if=none",
]
"""Extra arguments that name a file, each in another way."""


@pytest.mark.parametrize("written", [*NAMED, "machine"])
def test_what_is_in_files_that_arguments_name_is_in_its_name_wherever_it_travels(
    written: str, spec: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, odd, above = tmp_path / "file", tmp_path / "a:b=c,d", tmp_path / "above"
    create = (spec.hypervisor.qemu_img, "create", "-q", "-f", "qcow2", "-F", "raw")
    for one in (file, odd):
        one.write_bytes(bytes(512))
    subprocess.run([*create, "-b", file, above], check=True)
    if written == "machine":
        config = VmConfig(machine=f"pc,firmware={file}")
    else:
        names = {"file": file, "relative": "file", "odd": escaped(str(odd)), "above": above}
        config = VmConfig().replace(qemu_args=written.format(**names))
    such = dataclasses.replace(spec, config=config)

    def keys() -> tuple[str, str]:
        return key.key_of(such), Recipe.of(such, layers=0).resolved().name

    before = keys()
    for one in (file, odd):
        one.write_bytes(bytes(511) + b"1")
    assert all(one != other for one, other in zip(before, keys(), strict=True))
    assert such.is_lasting


@pytest.mark.parametrize(
    "written", ["-L {folder}", "-drive file=fat:rw:{folder},readonly=on", "-fsdev local,path={folder}"]
)
def test_what_is_in_a_folder_is_known_for_one_run_and_stays_here(
    written: str, spec: MachineSpec, tmp_path: Path
) -> None:
    such = dataclasses.replace(spec, config=VmConfig().replace(qemu_args=written.format(folder=tmp_path)))
    assert not such.is_lasting
    with pytest.raises(Untravelled, match=f"names {tmp_path}: "):
        Recipe.of(such, layers=0)


def test_firmware_that_is_installed_anew_is_another_name(spec: MachineSpec, tmp_path: Path) -> None:
    """Where in this process it is open, and the machine's copy of the variables, are not of the name."""

    def key_of(content: bytes, descriptor: int) -> str:
        parts = []
        for name in ("code", "variables"):
            path = tmp_path / name
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
            parts.append(ImageFile(path, "raw", descriptor, Fingerprint.of(path.stat())))
        found = Firmware(kind="uefi", reason="", files=tuple(parts), mapping="split", flash=(len(content),) * 2)
        return key.key_of(dataclasses.replace(spec, firmware=found))

    assert key_of(b"one", 8) == key_of(b"one", 9)
    assert key_of(b"one", 8) != key_of(b"another", 8) != key.key_of(spec)


def kernel(root: Path) -> object:
    key.kernel.cache_clear()
    return key.kernel(root)


def test_another_kernel_or_another_setting_of_kvm_is_another_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [kernel(root)]
    assert kernel(root) == seen[0]
    (root / "sys/module/kvm_intel/parameters/nested").write_text("N\n")
    seen.append(kernel(root))
    (root / "sys/module/kvm_amd").mkdir()
    seen.append(kernel(root))
    for what in ("release", "version"):
        monkeypatch.setattr(platform, what, lambda: "another")
        seen.append(kernel(root))
    assert all(seen.count(one) == 1 for one in seen)


def test_what_changes_from_day_to_day_is_not_in_it(root: Path) -> None:
    before = kernel(root)
    (root / "sys/module/kvm/parameters/halt_poll_ns").write_text("1")
    assert kernel(root) == before
