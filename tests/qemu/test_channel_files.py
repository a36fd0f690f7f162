"""What files and waits promise, over each channel, on guests that nobody prepared for it."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    GuestLacks,
    TransferError,
    UnitFailed,
    VirtualMachine,
    WaitTimeout,
)
from tests.qemu.channels import GROUPS, machine_of_each
from tests.qemu.waiting import GENEROUS, LIMITS

vm = machine_of_each(GROUPS)


class TestFiles:
    def test_texts_and_bytes(self, vm: VirtualMachine) -> None:
        vm.write_text("/root/ü 'x'", "één\nline")
        assert vm.read_text("/root/ü 'x'") == "één\nline"
        vm.write_bytes("/root/b", bytes(range(256)), mode=0o600)
        assert vm.read_bytes("/root/b") == bytes(range(256))
        assert vm.run("stat -c %a /root/b").stdout == "600\n"
        assert vm.read_bytes("/proc/self/comm") or vm.read_bytes("/proc/version")
        odd = os.fsdecode(b"/root/caf\xe9")
        vm.write_text(odd, "odd")
        assert vm.read_text(odd) == "odd"

    @pytest.mark.parametrize(
        ("action", "sentence"),
        [
            (lambda vm: vm.read_text("/nope"), "/nope: No such file or directory, in the guest"),
            (lambda vm: vm.read_text("/root"), "/root: Is a directory, in the guest"),
            (lambda vm: vm.write_text("/nope/x", ""), "/nope/x: its folder is not there"),
            (lambda vm: vm.write_text("/root", ""), "/root: it is a folder"),
            (lambda vm: vm.write_text("~/.profile", ""), "'~/.profile' does not begin with '/'"),
            (lambda vm: vm.read_text("etc/passwd"), "'etc/passwd' does not begin with '/'"),
            (lambda vm: vm.write_text("/dev/null/x/y", "", parents=True), "/dev/null"),
            (
                lambda vm: vm.write_text("/root/x", "", owner="nobody2"),
                "/root/x: there is no such user or group in the guest: nobody2",
            ),
            (
                lambda vm: vm.write_text("/root/x", "", owner="0:nogrp"),
                "/root/x: there is no such user or group in the guest: 0:nogrp",
            ),
            (lambda vm: vm.push("/etc/hostname", "/nope/x"), "/nope/x: its folder is not there"),
            (lambda vm: vm.push("/usr/share/doc/base-files", "/nope/x"), "/nope/x: its folder is not there"),
            (
                lambda vm: vm.push("/usr/share/doc/base-files", "/root/x", owner="nobody2"),
                "/root/x: there is no such user or group in the guest: nobody2",
            ),
            (
                lambda vm: vm.push("/usr/share/doc/base-files", "/root/x", mode=0o600),
                "base-files is a folder, whose files",
            ),
            (lambda vm: vm.push("/usr/share/doc/base-files", "/etc/passwd"), "/etc/passwd: it is no folder"),
            (lambda vm: vm.pull("/nope", "/tmp"), "/nope is not there, in the guest"),
            (lambda vm: vm.pull("/dev/null", "/tmp/x"), "/dev/null is neither a file nor a folder"),
            (lambda vm: vm.push("/nope", "/root"), "/nope: No such file or directory, on the host"),
        ],
    )
    def test_what_cannot_be_is_a_sentence(
        self, vm: VirtualMachine, action: Callable[[VirtualMachine], object], sentence: str
    ) -> None:
        with pytest.raises(TransferError, match=sentence) as refusal:
            action(vm)
        assert refusal.value.__cause__ is None
        assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
        assert not re.search(r"partial|readonly-vm-|\.[0-9a-f]{8}", str(refusal.value))
        assert vm.run("ls -A /root | grep partial", check=False).stdout == ""

    def test_an_owner_and_folders_above(self, vm: VirtualMachine, tmp_path: Path) -> None:
        vm.run("echo 1 >/proc/sys/fs/protected_regular; chmod 1777 /tmp; rm -rf /tmp/new /tmp/tree", check=False)
        number = vm.run("id -u nobody").stdout.strip()
        group = vm.run("id -g nobody").stdout.strip()
        vm.write_text("/tmp/owned", "x", owner="nobody", mode=0o640)
        vm.write_text("/tmp/new/er/file", "x", owner=f"{number}:0", parents=True)
        (tmp_path / "tree" / "inner").mkdir(parents=True)
        (tmp_path / "tree" / "inner" / "file").touch(mode=0o600)
        vm.push(tmp_path / "tree" / "inner" / "file", "/tmp/pushed", mode=0o4755, owner=number)
        vm.push(tmp_path / "tree", "/tmp/tree/to/it", owner="nobody", parents=True)
        vm.push(tmp_path / "tree", "/tmp/roots")
        names = "owned new new/er new/er/file pushed tree tree/to tree/to/it tree/to/it/inner/file roots/inner/file"
        found = vm.run(f"cd /tmp && stat -c '%n %u %g %a' {names}").stdout.splitlines()
        assert found == [
            f"owned {number} {group} 640",
            *(f"{name} {number} 0 {mode}" for name, mode in (("new", 755), ("new/er", 755), ("new/er/file", 644))),
            f"pushed {number} {group} 4755",
            *(f"{name} {number} {group} 755" for name in ("tree", "tree/to", "tree/to/it")),
            f"tree/to/it/inner/file {number} {group} 600",
            "roots/inner/file 0 0 600",
        ]

    def test_a_folder_that_cannot_be_read_is_told_by_the_name_of_what_cannot(
        self, vm: VirtualMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "secret").write_text("x")

        def refuse(path: str, *arguments: object) -> object:
            raise PermissionError(13, "Permission denied", str(path))  # which root never hears

        monkeypatch.setattr("tarfile.bltn_open", refuse)
        with pytest.raises(TransferError, match=f"^{tmp_path}/secret: Permission denied, on the host$"):
            vm.push(tmp_path, "/root/refused")

    def test_a_file_there_and_back(self, vm: VirtualMachine, tmp_path: Path) -> None:
        data = os.urandom(2 << 20) + b"\0" * (1 << 20) + b"end"
        (tmp_path / "out").write_bytes(data)
        (tmp_path / "out").chmod(0o751)
        os.utime(tmp_path / "out", (1_600_000_000, 1_600_000_000))
        vm.push(tmp_path / "out", "/root/transferred")
        assert vm.run("stat -c '%a %Y %u' /root/transferred").stdout == "751 1600000000 0\n"
        vm.pull("/root/transferred", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
        found = (tmp_path / "back").stat()
        assert (found.st_mode & 0o7777, int(found.st_mtime)) == (0o751, 1_600_000_000)
        assert vm.run("ls /root | grep -c partial", check=False).stdout == "0\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "out"]

    def test_an_empty_file(self, vm: VirtualMachine, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        vm.push(tmp_path / "empty", "/root/empty")
        vm.pull("/root/empty", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b""

    def test_a_folder_there_and_back(self, vm: VirtualMachine, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        (tree / "empty folder").mkdir(parents=True)
        (tree / "empty folder").chmod(0o711)
        (tree / "file").write_text("content")
        (tree / "file").chmod(0o640)
        (tree / "link").symlink_to("file")
        (tree / "dangling").symlink_to("/nowhere/at all")
        (tree / "hard").hardlink_to(tree / "file")
        for name in (b"two\nlines", b"caf\xe9", b"-dash", b"back\\slash", b"x" * 200):
            (tree / os.fsdecode(name)).write_bytes(name)
        with (tree / "sparse").open("wb") as file:
            file.truncate(2 << 20)
        vm.push(tree, "/root/tree")
        vm.pull("/root/tree", tmp_path / "back")
        subprocess.run(["diff", "-r", "--no-dereference", tree, tmp_path / "back"], check=True)
        for path in tree.rglob("*"):
            there = tmp_path / "back" / path.relative_to(tree)
            assert there.lstat().st_mode == path.lstat().st_mode, path
        assert (tmp_path / "back" / "file").stat().st_nlink == 2

    def test_a_guest_cannot_write_outside_of_the_folder(self, vm: VirtualMachine, tmp_path: Path) -> None:
        vm.run(f"mkdir -p /root/evil; cd /root/evil; rm -f d; ln -s {shlex.quote(str(tmp_path))} d; mkdir -p dev")
        vm.pull("/root/evil", tmp_path / "back")
        assert (tmp_path / "back" / "d").is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["back"]


class TestWaits:
    def test_what_comes_true(self, vm: VirtualMachine) -> None:
        vm.run("rm -f /tmp/later; (sleep 0.5; touch /tmp/later) >/dev/null 2>&1 &")
        vm.wait_for_file("/tmp/later")
        assert vm.wait_until_succeeds("[ -e /tmp/later ] && echo yes").stdout == "yes\n"

    def test_what_does_not_is_told_with_what_was_last_seen(self, vm: VirtualMachine) -> None:
        vm.run("true")  # the search for a channel would count
        for limit in LIMITS:
            with pytest.raises(WaitTimeout, match=rf"waited {limit:g} s for the success of: echo no; false") as timeout:
                vm.wait_until_succeeds("echo no; false", timeout=limit)
            if "Last seen: exit code 1; stdout: no" in timeout.value.__notes__:
                break
        else:
            pytest.fail(f"nothing was seen: {timeout.value.__notes__}")
        with pytest.raises(WaitTimeout, match=r"waited 0\.5 s for a listener on TCP port 4"):
            vm.wait_for_port(4, timeout=0.5)
        with pytest.raises(WaitTimeout, match=r"waited 0\.5 s for /tmp/never to exist"):
            vm.wait_for_file("/tmp/never", timeout=0.5)

    def test_systemd(self, vm: VirtualMachine) -> None:
        if vm.run("command -v systemctl", check=False).exit_code:
            with pytest.raises(GuestLacks, match=r"has no systemd, and so no unit ssh, as its init is (init|OpenRC); "):
                vm.wait_for_unit("ssh")
            for look in (vm.journal, lambda: vm.wait_for_log("x")):
                with pytest.raises(
                    GuestLacks, match=r"the guest has no journal, as systemd-journald does not run in it"
                ):
                    look()
            return
        vm.wait_for_unit("ssh")
        vm.wait_for_port(22)
        # oneshot: a simple unit is active between its start and its end, however short.
        vm.run("systemd-run --unit=doomed --property=Type=oneshot sh -c 'echo last words; exit 3'", check=False)
        with pytest.raises(
            UnitFailed, match=r"the unit doomed failed \(exit code 3\), last said: last words; so it will not"
        ) as failure:
            vm.wait_for_unit("doomed", timeout=GENEROUS)
        assert "last words" in failure.value.__notes__[0]
