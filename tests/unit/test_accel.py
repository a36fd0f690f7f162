"""An accelerator is believed when it has run a guest, and its verdict remembered for this boot of the host."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import AcceleratorUnavailable, QemuNotFound
from pytest_readonly_vm.host import accel
from pytest_readonly_vm.host.qemu_binary import Qemu, find_qemu
from pytest_readonly_vm.host.tool import Completed, run_tool
from tests.qemu.waiting import GENEROUS


@pytest.fixture(scope="module")
def qemu() -> Qemu:
    return find_qemu("qemu-system-x86_64", origin="the suite")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-readonly-vm" / "accelerators.json"


def test_the_guest_of_the_proof_gets_through_long_mode(qemu: Qemu) -> None:
    assert accel.prove("tcg", qemu).obstacle is None


def test_an_accelerator_that_qemu_does_not_have_is_no_accelerator(qemu: Qemu) -> None:
    complaint = accel.prove("hvf", qemu).obstacle
    assert complaint is not None
    assert "did not run under it: QEMU exited with status 1" in complaint


@pytest.mark.parametrize("machine", ["q35", "pc-i440fx-", "pc-q35-", "microvm"])
def test_any_machine_that_an_emulator_has_can_prove_it(
    qemu: Qemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    """A build without the others, as distributions have them."""
    script = f"""
        case "$*" in
        "-M help") {qemu.path} -M help | grep -E "^(Supported|{machine}[^ ]* )" ;;
        *"-M {machine}"*) exec {qemu.path} "$@" ;;
        *) echo "unsupported machine type" >&2; exit 1 ;;
        esac"""
    assert accel.prove("tcg", fake_qemu(tmp_path, script)).obstacle is None


def fake_qemu(folder: Path, script: str) -> Qemu:
    path = folder / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Qemu(path=path, version="0", arch="x86_64", has_sandbox=False)


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Qemu]:
    """An emulator that does something with guests, and notes how many there were in `runs`; and a device for KVM."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "_KVM", device)
    script = f'[ "$2" = help ] || {{ echo x >> {tmp_path}/runs; . {tmp_path}/with-guests; }}'
    emulator = fake_qemu(tmp_path, script)

    def does(what: str) -> Qemu:
        (tmp_path / "with-guests").write_text(what)
        # What ends by itself has as long as that takes on a busy computer.
        monkeypatch.setattr(accel, "_PATIENCE", 1.0 if what == HANGS else GENEROUS)
        monkeypatch.setattr(accel, "_MOST_PATIENCE", 3.0 if what == HANGS else GENEROUS)
        return emulator

    return does


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


HANGS = "exec sleep 600"


def test_a_guest_that_hangs_is_given_up_and_that_is_remembered(
    tmp_path: Path, cache: Path, counted: Callable[[str], Qemu]
) -> None:
    hanging = counted(HANGS)
    for _ in range(2):
        chosen = accel.choose("auto", hanging, origin="")
        assert (chosen.name, "hangs under it" in chosen.reason) == ("tcg", True)
    assert runs(tmp_path) == 1
    with pytest.raises(AcceleratorUnavailable, match=r"accel=kvm \(from --vm-accel\) cannot be had: .*hangs"):
        accel.choose("kvm", hanging, origin="--vm-accel")
    working = counted("exit 85")
    working.path.write_text(f"{working.path.read_text()}# another build: the old verdict is not its\n")
    assert accel.choose("auto", working, origin="").name == "kvm"
    assert len(json.loads(cache.read_text())) == 2


def test_a_host_that_was_busy_for_a_moment_gets_kvm_back(
    tmp_path: Path, counted: Callable[[str], Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = accel._now()
    busy = counted(HANGS)
    assert accel.choose("auto", busy, origin="").describe_with_age().endswith("hangs under it)")
    idle = counted("exit 85")
    monkeypatch.setattr(accel, "_now", lambda: start + 99)
    assert accel.choose("auto", idle, origin="").name == "tcg"
    monkeypatch.setattr(accel, "_now", lambda: start + 201)
    assert accel.choose("auto", idle, origin="").name == "kvm"
    monkeypatch.setattr(accel, "_now", lambda: start + 10**9)
    assert accel.choose("auto", idle, origin="").name == "kvm"
    assert runs(tmp_path) == 2


def test_a_host_on_which_guests_hang_spends_little_time_on_that(
    tmp_path: Path, counted: Callable[[str], Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = accel._now()
    monkeypatch.setattr(accel, "_now", lambda: now)
    waits = []

    def impatient(argv: list[str], *, timeout: float, **_: object) -> Completed:
        waits.append(timeout)
        return run_tool(argv, timeout=0.1)

    monkeypatch.setattr(accel, "run_tool", impatient)
    hanging = counted(HANGS)
    for _ in range(100):
        accel.choose("auto", hanging, origin="")
        now += 10
    waited = waits[1::2]  # every other one asks for the machines
    assert waited == [1.0, 2.0, *[3.0] * (len(waited) - 2)]  # so that one that is slow gets it at the second try
    assert sum(waited[:-1]) <= 100 * 10 * 0.01


def test_the_age_of_a_verdict_is_told_and_the_doctor_renews_it(
    tmp_path: Path, counted: Callable[[str], Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "_KEPT_FOR", 10_000)
    hanging = counted(HANGS)
    accel.choose("auto", hanging, origin="")
    start = accel._now()
    monkeypatch.setattr(accel, "_now", lambda: start + 12 * 60)
    told = "that was 12 min ago, readonly-vm doctor tries it again"
    assert accel.choose("auto", hanging, origin="").describe_with_age().endswith(f"; {told})")
    with pytest.raises(AcceleratorUnavailable, match=told):
        accel.choose("kvm", hanging, origin="--vm-accel")
    assert accel.choose("auto", counted("exit 85"), origin="", anew=True).name == "kvm"
    assert accel.choose("auto", counted(HANGS), origin="").name == "kvm"
    assert runs(tmp_path) == 2


def test_a_refusal_is_asked_for_anew(tmp_path: Path, counted: Callable[[str], Qemu]) -> None:
    refusing = counted("echo 'warning: odd' >&2; echo 'Could not access KVM: Device or resource busy' >&2; exit 1")
    for _ in range(2):
        assert "exited with status 1: Could not access KVM" in accel.choose("auto", refusing, origin="").reason
    assert accel.choose("auto", counted("exit 85"), origin="").name == "kvm"
    assert runs(tmp_path) == 3


def test_what_an_earlier_boot_or_version_has_left_or_is_damaged_is_forgotten(
    cache: Path, counted: Callable[[str], Qemu]
) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    working = counted("exit 85")
    for content in ("{not json", "[]", "\udcff", '{"another-boot x": [null, null, 1]}', f'{{"{boot} x": "hangs"}}'):
        cache.parent.mkdir(exist_ok=True)
        cache.write_text(content, errors="surrogateescape")
        assert accel.choose("auto", working, origin="").name == "kvm"
        assert len(json.loads(cache.read_text())) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_cache_without_locks_is_done_without(
    tmp_path: Path, counted: Callable[[str], Qemu], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    for _ in range(2):
        assert accel.choose("auto", counted("exit 85"), origin="").name == "kvm"
    assert runs(tmp_path) == 1


def test_a_cache_that_cannot_be_made_is_done_without(
    tmp_path: Path, counted: Callable[[str], Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    for _ in range(2):
        assert accel.choose("auto", counted("exit 85"), origin="").name == "kvm"
    assert runs(tmp_path) == 1


def test_a_cache_on_a_full_disk_is_done_without(tmp_path: Path, cache: Path, counted: Callable[[str], Qemu]) -> None:
    cache.parent.mkdir()
    cache.symlink_to("/dev/full")  # which can be locked, and reads as zeros without end
    for _ in range(2):
        assert accel.choose("auto", counted("exit 85"), origin="").name == "kvm"
    assert runs(tmp_path) == 1


def test_one_that_holds_the_cache_and_stands_still_is_not_waited_for_without_end(
    cache: Path, counted: Callable[[str], Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir()
    working = counted("exit 85")
    monkeypatch.setattr(accel, "_PATIENCE", 3.0)
    monkeypatch.setattr(accel, "_MOST_PATIENCE", 0.0)
    with cache.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert accel.choose("auto", working, origin="").name == "kvm"


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
