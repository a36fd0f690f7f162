"""What files and waits promise, over each channel, on guests that nobody prepared for it."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import CommandFailed, TransferError, VirtualMachine, VmError, WaitTimeout
from tests.qemu.channels import GROUPS, machine_of_each

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
            (lambda vm: vm.pull("/nope", "/tmp"), "/nope is not there, in the guest"),
            (lambda vm: vm.pull("/dev/null", "/tmp/x"), "/dev/null is neither a file nor a folder"),
            (lambda vm: vm.push("/nope", "/root"), "/nope: No such file or directory"),
        ],
    )
    def test_what_cannot_be_is_a_sentence(
        self, vm: VirtualMachine, action: Callable[[VirtualMachine], object], sentence: str
    ) -> None:
        with pytest.raises(TransferError, match=sentence):
            action(vm)

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
        with pytest.raises(WaitTimeout, match=r"waited 1 s for the success of: echo no; false") as timeout:
            vm.wait_until_succeeds("echo no; false", timeout=1)
        assert "Last seen: stdout:\nno" in timeout.value.__notes__
        with pytest.raises(WaitTimeout, match=r"waited 0\.5 s for a listener on TCP port 4"):
            vm.wait_for_port(4, timeout=0.5)
        with pytest.raises(WaitTimeout, match=r"waited 0\.5 s for /tmp/never to exist"):
            vm.wait_for_file("/tmp/never", timeout=0.5)

    def test_systemd(self, vm: VirtualMachine) -> None:
        if vm.run("command -v systemctl", check=False).exit_code:
            with pytest.raises(CommandFailed):
                vm.wait_for_unit("ssh")
            return
        vm.wait_for_unit("ssh")
        vm.wait_for_port(22)
        # oneshot: a simple unit is active between its start and its end, however short.
        vm.run("systemd-run --unit=doomed --property=Type=oneshot false", check=False)
        with pytest.raises(VmError, match="the unit doomed failed"):
            vm.wait_for_unit("doomed", timeout=30)
