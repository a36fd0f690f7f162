"""QEMU's firmware descriptors are read as libvirt reads them; what they name is here, as small files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.host import firmware
from pytest_readonly_vm.host.firmware import find_firmware
from pytest_readonly_vm.host.qemu_binary import Qemu

Install = Callable[..., Path]
PC = {"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}
Q35 = {"architecture": "x86_64", "machines": ["pc-q35-*"]}


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of ``/usr/share``; the user's own configuration is beside it, in ``config``."""
    monkeypatch.setattr(firmware, "_SHARE", tmp_path / "share")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "share"


@pytest.fixture
def install(share: Path) -> Install:
    def install(
        name: str,
        *,
        features: tuple[str, ...] = (),
        targets: tuple[dict[str, Any], ...] = (PC,),
        format: str = "raw",
        interface: str = "uefi",
        folder: Path = share,
        **mapping: Any,
    ) -> Path:
        """A descriptor and its files, code and variables in flash unless `mapping` says otherwise."""
        descriptor = folder / "qemu/firmware" / f"{name}.json"
        descriptor.parent.mkdir(parents=True, exist_ok=True)
        files = {part: descriptor.with_suffix(f".{part}.fd") for part in ("code", "vars")}
        for path in files.values():
            path.write_bytes(b"x" * 4096)
        usual: dict[str, Any] = {
            "device": "flash",
            "executable": {"filename": str(files["code"]), "format": format},
            "nvram-template": {"filename": str(files["vars"]), "format": format},
        }
        found = {
            "description": name,
            "interface-types": [interface],
            "mapping": {**usual, **mapping},
            "targets": list(targets),
            "features": list(features),
            "tags": [],
        }
        descriptor.write_text(json.dumps(found))
        return descriptor

    return install


def found(machine: str = "pc", *, secure: bool = False, arch: str = "x86_64", prefix: Path = Path("/nowhere")) -> str:
    """The name of the descriptor that is taken."""
    qemu = Qemu(prefix / f"bin/qemu-system-{arch}", "10.0.0", arch, True)
    return find_firmware(qemu, machine=machine, secure=secure).descriptor.stem


def test_the_first_that_fits_by_name_is_taken(install: Install) -> None:
    install("60-plain")
    install("50-other-machine", targets=(Q35,))
    install("40-other-arch", targets=({"architecture": "aarch64", "machines": ["virt-*"]},))
    install("30-bios", interface="bios")
    install("20-keys", features=("secure-boot", "enrolled-keys"))
    install("10-smm", features=("secure-boot", "requires-smm"))
    assert found() == "60-plain"
    assert found("pc-i440fx-7.2") == "60-plain"
    assert found("q35") == found("pc-q35-7.2") == "50-other-machine"
    assert found("virt", arch="aarch64") == "40-other-arch"


def test_secure_boot_needs_keys_that_are_enrolled(install: Install) -> None:
    install("10-empty", features=("secure-boot", "requires-smm"), targets=(Q35,))
    install("20-keys", features=("secure-boot", "enrolled-keys", "requires-smm"), targets=(Q35,))
    assert found("q35", secure=True) == "20-keys"
    with pytest.raises(HostError, match="no UEFI firmware that does Secure Boot, with keys enrolled, for x86_64"):
        found("pc", secure=True)


def test_a_machine_type_without_versions_is_matched_by_its_name(install: Install) -> None:
    install("10-riscv", targets=({"architecture": "riscv64", "machines": ["virt"]},))
    assert found("virt", arch="riscv64") == "10-riscv"


def test_the_user_masks_what_is_installed(install: Install, share: Path) -> None:
    config = share.with_name("config")
    install("10-first")
    install("20-second")
    assert found() == "10-first"
    (config / "qemu/firmware").mkdir(parents=True)
    mask = config / "qemu/firmware/10-first.json"
    mask.touch()
    assert found() == "20-second"
    mask.unlink()
    mask.symlink_to("/dev/null")
    assert found() == "20-second"
    mask.unlink()
    install("10-first", folder=config, targets=(Q35,))
    assert found() == "20-second"
    install("05-mine", folder=config)
    assert found() == "05-mine"


def test_a_user_without_a_home_has_what_is_installed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a user id of its own in a container."""
    install("50-one")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: Path("~nobody-of-this-name").expanduser()))
    assert found() == "50-one"


def test_a_qemu_with_a_prefix_of_its_own_brings_its_own(install: Install, tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    install("10-own", folder=prefix / "share")
    assert found(prefix=prefix) == "10-own"
    with pytest.raises(HostError):
        found()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"interface-types": ["uefi"]}', '{"interface-types": 1, "targets": 2}', "[" * 100000],
    ids=lambda text: text[:20],
)
def test_what_makes_no_sense_is_passed_over(install: Install, text: str) -> None:
    install("10-bad").write_text(text)
    install("20-good")
    assert found() == "20-good"


def test_what_names_files_that_are_not_there_is_passed_over(install: Install) -> None:
    install("10-gone").with_suffix(".vars.fd").unlink()
    install("20-kernel", device="kernel", filename="/boot/firmware")
    install("30-format", format="vmdk")
    install("40-relative", executable={"filename": "code.fd", "format": "raw"})
    install("50-good", format="qcow2")
    assert found() == "50-good"


def test_variables_that_last_are_better_than_none(install: Install, share: Path) -> None:
    install("10-stateless", mode="stateless")
    install("20-memory", device="memory", filename=str(share / "qemu/firmware/10-stateless.code.fd"))
    assert found() == "10-stateless"
    install("30-combined", mode="combined")
    assert found() == "30-combined"
    install("25-split", mode="split")
    assert found() == "25-split"


@pytest.mark.parametrize(
    ("arch", "machine", "package"),
    [
        ("x86_64", "pc", "install ovmf"),
        ("aarch64", "virt", "install qemu-efi-aarch64"),
        ("arm", "virt", "install qemu-efi-arm"),
        ("riscv64", "virt", "install qemu-efi-riscv64"),
        ("mips64", "malta", "the package of your distribution"),
    ],
)
def test_what_is_missing_is_named_with_its_package(share: Path, arch: str, machine: str, package: str) -> None:
    with pytest.raises(HostError, match=package) as caught:
        found(machine, arch=arch)
    assert str(share / "qemu/firmware") in str(caught.value)
    assert f"for {arch} machines of the type {machine}" in str(caught.value)
