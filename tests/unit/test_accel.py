"""An accelerator is believed when it has run a guest, and its verdict remembered for this boot of the host."""

import json
import os
import stat
from pathlib import Path

import pytest

from pytest_readonly_vm import AcceleratorUnavailable, QemuNotFound
from pytest_readonly_vm.host import accel
from pytest_readonly_vm.host.qemu import Qemu, find_qemu


@pytest.fixture(scope="module")
def qemu() -> Qemu:
    return find_qemu("qemu-system-x86_64", origin="the suite")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-readonly-vm" / "accelerators.json"


def test_the_guest_of_the_proof_gets_through_long_mode(qemu: Qemu) -> None:
    assert accel.prove("tcg", qemu) is None


def test_an_accelerator_that_qemu_does_not_have_is_no_accelerator(qemu: Qemu) -> None:
    complaint = accel.prove("hvf", qemu)
    assert complaint is not None
    assert "did not run under it: QEMU exited with status 1" in complaint


def fake_qemu(folder: Path, script: str) -> Qemu:
    path = folder / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Qemu(path=path, version="0", arch="x86_64", has_sandbox=False)


def test_a_guest_that_hangs_is_given_up_and_the_verdict_is_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "_KVM", device)
    monkeypatch.setattr(accel, "_PATIENCE", 0.3)
    hanging = fake_qemu(tmp_path, f"echo once >> {tmp_path}/runs; exec sleep 600")
    for _ in range(2):
        chosen = accel.choose("auto", hanging, origin="")
        assert (chosen.name, "hangs under it" in chosen.reason) == ("tcg", True)
    assert (tmp_path / "runs").read_text() == "once\n"
    with pytest.raises(AcceleratorUnavailable, match=r"accel=kvm \(from --vm-accel\) cannot be had: .*hangs"):
        accel.choose("kvm", hanging, origin="--vm-accel")
    hanging.path.write_text("#!/bin/sh\nexit 85\n")  # another build: the old verdict is not its
    assert accel.choose("auto", hanging, origin="").name == "kvm"
    assert len(json.loads(cache.read_text())) == 2


def test_verdicts_of_an_earlier_boot_and_a_damaged_memory_are_forgotten(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "_KVM", device)
    working = fake_qemu(tmp_path, "exit 85")
    for content in ("{not json", "[]", '{"another-boot x": "hangs"}'):
        cache.parent.mkdir(exist_ok=True)
        cache.write_text(content)
        assert accel.choose("auto", working, origin="").name == "kvm"
        assert len(json.loads(cache.read_text())) == 1


def test_without_a_place_to_remember_the_proof_is_made_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "_KVM", device)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert accel.choose("auto", fake_qemu(tmp_path, "exit 85"), origin="").name == "kvm"


def test_a_missing_and_a_denied_device_get_different_sentences(
    tmp_path: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_KVM", tmp_path / "missing")
    assert "does not exist" in accel.choose("auto", qemu, origin="").reason

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # root is denied nothing
    assert "join the group kvm" in accel.choose("auto", qemu, origin="").reason


def test_a_foreign_guest_is_not_tried(qemu: Qemu) -> None:
    foreign = Qemu(path=qemu.path, version="0", arch="riscv64", has_sandbox=False)
    assert accel.choose("auto", foreign, origin="").reason.startswith("no KVM: a riscv64 guest on a")


def test_a_missing_qemu_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(QemuNotFound, match=r"qemu-system-x86_64 \(from --vm-qemu\).*install qemu-system-x86"):
        find_qemu("qemu-system-x86_64", origin="--vm-qemu")


def test_a_program_that_is_no_qemu_is_not_taken_for_one() -> None:
    with pytest.raises(QemuNotFound, match="is not a QEMU system emulator"):
        find_qemu("/bin/echo", origin="--vm-qemu")
