"""The command ``readonly-vm``, as somebody at a terminal meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_readonly_vm.cli import main
from pytest_readonly_vm.start.cache import TemplateCache

A, B, C = ("a1" * 32, "a2" * 32, "c3" * 32)
DESCRIPTION = {"image": "/images/base.qcow2", "machine": "q35", "qemu": "7.2", "layer": "db\nup"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-readonly-vm/templates"


def fill(folder: Path, **times: float) -> None:
    cache = TemplateCache(folder, limit=1 << 30)
    source = os.memfd_create("ram")
    os.write(source, b"x" * (2 << 20))
    for key, last_used in times.items():
        description = DESCRIPTION if key == A else {}
        cache.add(key, {"ram": source}, description=description, facts={})
        os.utime(folder / key / "manifest.json", (last_used, last_used))
    os.close(source)


def status_of_exit(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_the_list_shows_what_is_known_of_each_the_last_used_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = (folder.parent.parent).stat().st_mtime
    fill(folder, **{B: now - 3 * 86400 - 60, A: now - 7260, C: now})
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "KEY           SIZE     LAST USED    IMAGE               WHAT",
        "c3c3c3c3c3c3  2.0 MiB  just now",
        "a1a1a1a1a1a1  2.0 MiB  2 hours ago  /images/base.qcow2  machine q35, qemu 7.2, layer db?up",
        "a2a2a2a2a2a2  2.0 MiB  3 days ago",
        f"3 templates in {folder}, 6.0 MiB",
    ]


def test_the_folder_may_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_VM_CACHE", str(tmp_path / "its own"))
    fill(tmp_path / "its own", **{A: 0})
    assert main(["cache", "clear", "--folder", str(tmp_path / "none")]) == 0
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"removed no templates from {tmp_path}/none, freed 0.0 MiB",
        f"removed 1 template from {tmp_path}/its own, freed 2.0 MiB",
    ]


def test_looking_where_nothing_is_makes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list"]) == 0
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"no templates in {folder}, 0.0 MiB",
        f"removed no templates from {folder}, freed 0.0 MiB",
    ]
    assert not folder.exists()


def test_those_that_are_named_go(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(folder, **{A: 1, B: 2, C: 3})
    assert main(["cache", "clear", A[:12], "c", C]) == 0
    assert capsys.readouterr().out == f"removed 2 templates from {folder}, freed 4.0 MiB\n"
    assert [path.name for path in folder.iterdir()] == [B]


def test_all_go_and_nothing_else_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere, **{A: 1, B: 2})
    (elsewhere / "mine.txt").touch()
    assert main(["cache", "clear", "--folder", str(elsewhere)]) == 0
    assert capsys.readouterr().out == f"removed 2 templates from {elsewhere}, freed 4.0 MiB\n"
    assert [path.name for path in elsewhere.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("a", "2 templates have a key that begins with 'a'"),
        ("f", "no template has a key that begins with 'f'"),
        ("", "2 templates have a key that begins with ''"),
    ],
)
def test_a_key_that_is_not_one_templates_removes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], key: str, complaint: str
) -> None:
    fill(folder, **{A: 1, B: 2})
    assert main(["cache", "clear", B, key]) == 2
    assert capsys.readouterr() == ("", f"readonly-vm: {complaint}\n")
    assert sorted(path.name for path in folder.iterdir()) == [A, B]


def test_wrong_use_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in (
        ((), "readonly-vm: the following arguments are required: COMMAND; see readonly-vm --help"),
        (("cache",), "readonly-vm cache: the following arguments are required: ACTION; see readonly-vm cache --help"),
        (("cache", "list", "--nonsense"), "readonly-vm: unrecognized arguments: --nonsense; see readonly-vm --help"),
    ):
        assert status_of_exit(*arguments) == 2
        assert capsys.readouterr() == ("", f"{complaint}\n")


def test_a_folder_that_others_may_enter_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    assert main(["cache", "list", "--folder", str(open_to_all)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"readonly-vm: {open_to_all} is not a folder that only you can use")
    assert err.count("\n") == 1


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--help",), ("cache", "--help"), ("cache", "clear", "--help")):
        assert status_of_exit(*arguments) == 0
    out = capsys.readouterr().out
    for line in ("    cache     List or remove", "    list      Show them", "    clear     Remove all", "--folder DIR"):
        assert line.lower() in out.lower()


def test_the_command_is_installed_and_needs_no_pytest() -> None:
    command = Path(sys.executable).with_name("readonly-vm")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("readonly-vm 0.")
    code = "import sys, pytest_readonly_vm.cli; print([name for name in ('pytest', 'qemu') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
