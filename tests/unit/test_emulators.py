"""The emulators for other architectures: that of a guest is found, asked what it has, or its package is named."""

from pathlib import Path

import pytest

from pytest_readonly_vm.errors import QemuNotFound
from pytest_readonly_vm.host.qemu_binary import arch_of_emulator, find_qemu, find_qemu_img, host_arch
from pytest_readonly_vm.host.qemu_features import Features, find_features

PACKAGES = {
    "aarch64": "on Debian and Ubuntu install qemu-system-arm, on Fedora and Arch qemu-system-aarch64; or",
    "riscv64": "on Debian and Ubuntu install qemu-system-misc, on Fedora and Arch qemu-system-riscv; or",
    "ppc64": "on Debian and Ubuntu install qemu-system-ppc, on Fedora and Arch qemu-system-ppc; or",
    "s390x": "on Debian and Ubuntu install qemu-system-misc, on Fedora and Arch qemu-system-s390x; or",
    "x86_64": "on Debian and Ubuntu install qemu-system-x86, on Fedora qemu-kvm, on Arch qemu-base; or",
}


@pytest.mark.parametrize("arch", PACKAGES)
def test_an_emulator_that_is_missing_is_named_with_its_package(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pytest_readonly_vm.host.qemu_binary.host_arch", lambda: "x86_64")
    monkeypatch.setattr("pytest_readonly_vm.host.qemu_binary._ELSEWHERE", tmp_path / "qemu-kvm")
    with pytest.raises(QemuNotFound) as error:
        find_qemu(None, arch=arch, origin="the default")
    assert str(error.value).startswith(f"qemu-system-{arch} is not installed: {PACKAGES[arch]}")


@pytest.mark.parametrize("arch", ["aarch64", "arm", "riscv64", "ppc64", "s390x"])
def test_an_emulator_says_what_it_has(arch: str) -> None:
    qemu = find_qemu(None, arch=arch, origin="the default")
    features = find_features(qemu)
    assert qemu.arch == arch
    assert features.has_pvpanic_pci is (arch != "s390x")
    assert ("pauth" in features.max_cpu) is (arch == "aarch64")
    assert find_features(qemu) is features


def test_nothing_is_asked_of_an_emulator_for_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = find_qemu("qemu-system-x86_64", origin="the test")
    monkeypatch.setattr("pytest_readonly_vm.host.qemu_features.run_tool", lambda *_, **__: pytest.fail("it was asked"))
    assert find_features(qemu) == Features()


def test_the_architecture_of_an_emulator_is_in_its_name() -> None:
    assert arch_of_emulator("/opt/qemu-system-arm/bin/qemu-system-riscv64") == "riscv64"
    assert arch_of_emulator("qemu-system-ppc64le") == "ppc64"
    assert arch_of_emulator("/usr/libexec/qemu-kvm") == host_arch()


def test_qemu_img_is_taken_from_beside_the_emulator_that_is_named(tmp_path: Path) -> None:
    for name in ("qemu-system-aarch64", "qemu-img"):
        (tmp_path / name).touch(0o755)
    assert find_qemu_img(str(tmp_path / "qemu-system-aarch64")) == tmp_path / "qemu-img"
    assert find_qemu_img(None) != tmp_path / "qemu-img"
    assert find_qemu_img("qemu-system-that-is-not-there") == find_qemu_img(None)
