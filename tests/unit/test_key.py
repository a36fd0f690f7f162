"""What of this computer is in the name of a frozen guest."""

import platform
from pathlib import Path

import pytest

from pytest_readonly_vm.start import key


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in {"kvm/parameters/ignore_msrs": "N", "kvm_intel/parameters/nested": "Y"}.items():
        (tmp_path / "sys/module" / name).parent.mkdir(parents=True)
        (tmp_path / "sys/module" / name).write_text(f"{value}\n")
    return tmp_path


def kernel(root: Path) -> object:
    key._kernel.cache_clear()
    return key._kernel(root)


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
