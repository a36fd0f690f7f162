"""``readonly-vm doctor``: what it finds on this computer, and on one that lacks things."""

import contextlib
import json
import os
import re
from pathlib import Path

import pytest

from pytest_readonly_vm.cli import main
from pytest_readonly_vm.cli.doctor import Finding, examine

NAMES = (
    *("Python", "plugin", "pytest", "pytest-timeout", "pytest-xdist", "qemu.qmp", "QEMU", "qemu-img", "accelerator"),
    *(
        "seccomp",
        "firmware",
        "Landlock",
        "temporary room",
        "budget",
        "memory files",
        "cache",
        "images",
        "ssh",
        "tesseract",
    ),
)


@pytest.fixture(autouse=True)
def no_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is proved anew each time, and may be one that hangs."""
    monkeypatch.setattr("pytest_readonly_vm.host.accel._KVM", tmp_path / "no-kvm")


def found(name: str) -> Finding:
    [finding] = [finding for finding in examine() if finding.name == name]
    return finding


def test_a_line_for_each_and_status_0_where_machines_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    *lines, empty, verdict = out.splitlines()
    assert [name for line in lines if (name := line[6:20].strip())] == list(NAMES)
    assert {line[:6] for line in lines} <= {"ok    ", "warn  ", " " * 6}
    assert (empty, verdict.partition(",")[0].rstrip(".")) == ("", "Machines run here")
    # What is missing is said once, and what to do stands below it.
    [place] = [number for number, line in enumerate(lines) if "no KVM: " in line]
    assert lines[place].startswith("warn  accelerator     tcg, proved by running a guest; no KVM: ")
    assert lines[place + 1].strip().startswith("guests run many times slower than with KVM; use a computer ")
    assert "\x1b" not in out
    assert err == ""


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert [finding["name"] for finding in findings] == list(NAMES)
    assert all(set(finding) == {"name", "state", "found", "advice"} for finding in findings)
    assert all(finding["state"] == "ok" or finding["advice"] for finding in findings)


def test_without_qemu_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pytest_readonly_vm.host.qemu_binary._ELSEWHERE", tmp_path / "qemu-kvm")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    [place] = [number for number, line in enumerate(lines) if line.startswith("FAIL  QEMU            qemu-system-")]
    assert lines[place].endswith(" is not installed")
    assert lines[place + 1].strip().startswith("on Debian and Ubuntu install qemu-system-")
    assert any(line.startswith("warn  ssh ") for line in lines)
    assert not any("accelerator" in line for line in lines)
    assert lines[-1] == "No machine runs here, or none as configured: see FAIL."


def test_a_qemu_that_runs_nothing_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\ncase $1 in -help) echo 'QEMU emulator version 9.9' ;; *) exit 3 ;; esac\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("pytest_readonly_vm.host.qemu_binary.host_arch", lambda: "x86_64")
    assert found("QEMU").found == f"9.9 x86_64, {fake}"
    assert found("accelerator").state == "FAIL"
    assert found("seccomp").state == "warn"


def test_room_is_looked_for_where_machines_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert found("temporary room").found.endswith(f" free in {tmp_path}")
    monkeypatch.setenv("TMPDIR", "/proc")
    assert found("temporary room").state == "FAIL"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    finding = found("temporary room")
    assert (finding.state, finding.found) == ("FAIL", f"{tmp_path}/nowhere: No such file or directory")
    assert "--vm-tmpdir" in finding.advice


def test_a_cache_that_others_may_enter_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "pytest-readonly-vm/templates"
    assert found("cache") == Finding("cache", "ok", f"nothing in {folder} yet, at most 10.0 GiB")
    assert not folder.exists()
    folder.mkdir(parents=True, mode=0o755)
    assert found("cache").state == "FAIL"
    folder.chmod(0o700)
    assert found("cache") == Finding("cache", "ok", f"0 frozen guests in {folder}, 0.0 GiB of at most 10.0 GiB")


def test_stores_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CACHE": tmp_path / "guests", "CACHE_SIZE": "2G", "IMAGE_STORE": tmp_path / "images"}.items():
        monkeypatch.setenv(f"PYTEST_VM_{name}", str(value))
    assert found("cache").found == f"nothing in {tmp_path}/guests yet, at most 2.0 GiB"
    assert found("images").found == f"nothing downloaded or unpacked in {tmp_path}/images yet, at most 50.0 GiB"


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = [line for line in on_a_terminal("doctor") if line[:1] == "\x1b"]
    assert all(re.match("\x1b\\[3[123]m(ok  |warn|FAIL)\x1b\\[0m  ", line) for line in coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = on_a_terminal("doctor")
    assert "\x1b" not in "".join(plain)
    assert [line[6:20].strip() for line in plain if re.match(r"ok|warn", line)] == list(NAMES)
    assert len(coloured) == len(NAMES)


def on_a_terminal(command: str) -> list[str]:
    """The lines that a command shows there. In this process, whose KVM is left alone."""
    keyboard, terminal = os.openpty()
    with os.fdopen(keyboard, "rb", buffering=0) as shown:
        with os.fdopen(terminal, "w") as screen, contextlib.redirect_stdout(screen):
            assert main([command]) == 0
        text = b""
        with contextlib.suppress(OSError):  # EIO: all of it was read, and nobody has the terminal open
            while data := shown.read(4096):
                text += data
    return text.decode().splitlines()
