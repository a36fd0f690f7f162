"""What commands and files promise, over each channel, on guests that nobody prepared for it."""

import contextlib
import hashlib
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    ChannelLost,
    CommandFailed,
    CommandTimeout,
    GuestDied,
    Lab,
    TransferError,
    VirtualMachine,
    VmConfig,
    VmError,
    WaitTimeout,
)
from tests.guests.alpine import alpine
from tests.guests.debian import debian
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

LARGE = {"tiny-shell-clone": 200 << 20}
"""Bytes of output; elsewhere less, as an emulated Debian's agent and sshd take half a minute for it."""
GROUPS = (
    "debian-agent-clone",
    "debian-shell-clone",
    "debian-ssh-clone",
    "alpine-shell-cold",
    "tiny-shell-clone",
)
"""Guest, channel, and how the machine comes to be."""


def config(group: str) -> VmConfig:
    guest, channel, start = group.split("-")
    common = VmConfig().replace(accel="tcg", channel=channel, start=start, boot_timeout=300, cache=templates())
    if guest == "debian":
        return common.replace(image=debian())
    direct = alpine() if guest == "alpine" else tiny_linux()
    files = {"image": direct.disk, "kernel": direct.kernel, "initrd": direct.initrd}
    return common.replace(**files, append=direct.append, memory="768M")


@pytest.fixture(scope="module", params=GROUPS)
def vm(request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    with Lab() as lab:
        yield lab.start(config(request.param), name=request.param)


class TestRun:
    def test_answers_over_the_channel_that_was_asked_for(
        self, vm: VirtualMachine, request: pytest.FixtureRequest
    ) -> None:
        assert vm.run("id -u").stdout == "0\n"
        assert vm.channel == vm.config.channel

    def test_a_text_is_for_a_shell_and_a_list_is_for_none(self, vm: VirtualMachine) -> None:
        assert vm.run("echo $((6 * 7)) | cat; echo 'a  b'").stdout == "42\na  b\n"
        words = ["$HOME", "a  b", "it's", '"', "\\", "*", "", "-n", "ü", "two\nlines"]
        assert vm.run(["printf", "%s|", *words]).stdout == "".join(f"{word}|" for word in words)

    def test_bytes_that_are_no_utf8_arrive(self, vm: VirtualMachine) -> None:
        assert vm.run(["printf", "%s", os.fsdecode(b"caf\xe9")]).stdout_bytes == b"caf\xe9"

    @pytest.mark.parametrize(
        ("program", "output"),
        [
            ("printf ''", b""),
            ("printf 'no newline'", b"no newline"),
            (r"printf 'nul\000inside'", b"nul\0inside"),
            (r"printf '\377\376'", b"\xff\xfe"),
            ("echo; echo; printf '\\n\\n'", b"\n\n\n\n"),
            ("printf '0123456789abcdef0123456789abcdef 0 >\\n'", b"0123456789abcdef0123456789abcdef 0 >\n"),
        ],
    )
    def test_output_is_what_was_printed(self, vm: VirtualMachine, program: str, output: bytes) -> None:
        result = vm.run(f"{program}; {{ {program}; }} >&2")
        assert (result.stdout_bytes, result.stderr_bytes) == (output, output)

    def test_text_is_utf8_with_replacements(self, vm: VirtualMachine) -> None:
        assert vm.run(r"printf 'ok\377'").stdout == "ok�"

    @pytest.mark.parametrize(
        ("command", "code"), [("exit 3", 3), ("false", 1), ("kill -9 $$", 137), ("kill -TERM $$", 143), (["nope"], 127)]
    )
    def test_exit_codes(self, vm: VirtualMachine, command: str | list[str], code: int) -> None:
        assert vm.run(command, check=False).exit_code == code

    def test_a_failure_names_the_command_and_shows_the_ends_of_its_output(self, vm: VirtualMachine) -> None:
        with pytest.raises(CommandFailed, match=r"exit code 4 from: seq 100; echo oops >&2; exit 4") as failure:
            vm.run("seq 100; echo oops >&2; exit 4")
        assert failure.value.result.exit_code == 4
        assert failure.value.__notes__[0].startswith("Last 20 of 100 lines of stdout:\n81\n")
        assert failure.value.__notes__[1] == "stderr:\noops"

    def test_input_environment_folder_and_user(self, vm: VirtualMachine) -> None:
        assert vm.run("cat; wc -c </dev/null", input="ü\0").stdout == "ü\x000\n"
        assert vm.run(["sh", "-c", "echo $A-$B"], env={"A": "it's", "B": "$HOME"}).stdout == "it's-$HOME\n"
        assert vm.run("pwd; echo $HOME", cwd="/proc").stdout.split() == ["/proc", "/root"]
        vm.run("id nobody || echo nobody:x:65534:65534::/:/bin/sh >>/etc/passwd", check=False)
        who = vm.run(["id", "-un"], user="nobody", check=False)
        assert who.stdout == "nobody\n", who.stderr
        assert vm.run("pwd", cwd="/nowhere", check=False).exit_code != 0

    def test_input_of_megabytes(self, vm: VirtualMachine) -> None:
        data = os.urandom(3 << 20)
        assert vm.run("sha256sum", input=data).stdout.split()[0] == hashlib.sha256(data).hexdigest()

    def test_a_command_of_megabytes(self, vm: VirtualMachine) -> None:
        assert vm.run(f": {'x' * (1 << 20)}; echo done").stdout == "done\n"

    def test_output_of_hundreds_of_megabytes(self, vm: VirtualMachine) -> None:
        size = LARGE.get(vm.name, 20 << 20)
        result = vm.run(f"head -c {size} /dev/zero | tr '\\0' x")
        assert len(result.stdout_bytes) == size
        assert result.stdout_bytes.count(b"x") == size

    def test_a_command_that_closes_its_streams_and_goes_on(self, vm: VirtualMachine) -> None:
        assert vm.run("echo first; exec >&- 2>&- <&-; sleep 0.3; exit 5", check=False).exit_code == 5

    def test_a_child_that_keeps_the_streams_does_not_hold_the_result(self, vm: VirtualMachine) -> None:
        began = time.monotonic()
        assert vm.run("sleep 60 & echo started").stdout == "started\n"
        assert time.monotonic() - began < GENEROUS / 2

    def test_many_in_a_row(self, vm: VirtualMachine) -> None:
        numbers = range(100 if vm.name.startswith("tiny") else 30)  # more than sshd or an agent has of anything
        assert [vm.run(f"echo {number}").stdout for number in numbers] == [f"{number}\n" for number in numbers]

    def test_several_at_once(self, vm: VirtualMachine) -> None:
        with ThreadPoolExecutor(12) as threads:
            waits = [
                threads.submit(vm.run, f"sleep 0.$(({number} % 3)); seq {number * 1000}; echo {number} >&2")
                for number in range(12)
            ]
            for number, wait in enumerate(waits):
                result = wait.result()
                assert result.stdout == "".join(f"{line}\n" for line in range(1, number * 1000 + 1))
                assert result.stderr == f"{number}\n"

    def test_one_does_not_wait_for_another(self, vm: VirtualMachine) -> None:
        vm.run("rm -f /tmp/go")
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(vm.run, "until [ -e /tmp/go ]; do sleep 0.05; done; echo gone", timeout=GENEROUS)
            vm.run("touch /tmp/go")
            assert waiting.result().stdout == "gone\n"

    def test_a_timeout_kills_it_and_tells_what_it_had_printed(self, vm: VirtualMachine) -> None:
        with pytest.raises(CommandTimeout, match=r"did not end within 2 s and was killed: echo early") as timeout:
            vm.run("echo early; echo hmm >&2; sleep 4242 | cat & sleep 4243", timeout=2)
        assert (timeout.value.stdout, timeout.value.stderr) == ("early\n", "hmm\n")
        assert "early" in timeout.value.__notes__[0]
        assert "424" not in vm.run("ps -e -o args || ps").stdout.replace("ps -e", "")
        assert vm.run("echo on we go").stdout == "on we go\n"

    def test_nothing_of_ours_is_in_its_environment(self, vm: VirtualMachine) -> None:
        assert "_rv_" not in vm.run("env").stdout


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
        data = os.urandom(5 << 20) + b"\0" * (1 << 20) + b"end"
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
            file.truncate(8 << 20)
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
        with pytest.raises(WaitTimeout, match=r"waited 2 s for the success of: echo no; false") as timeout:
            vm.wait_until_succeeds("echo no; false", timeout=2)
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


class TestTheEnd:
    """The last, as each spoils the machine."""

    def test_a_reboot_under_a_command_wakes_it_and_the_channel_comes_back(self, vm: VirtualMachine) -> None:
        before = vm.boot_id()
        with pytest.raises(ChannelLost) as lost:
            vm.run("sync; (sleep 0.5; reboot -f) >/dev/null 2>&1 & sleep 600", timeout=GENEROUS)
        assert any("sleep 600" in note for note in lost.value.__notes__)
        vm.wait_for_boot(before)
        assert vm.run("echo back").stdout == "back\n"
        assert vm.channel == vm.config.channel

    def test_a_death_under_a_command_wakes_it(self, vm: VirtualMachine) -> None:
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(vm.run, "touch /tmp/runs; sleep 600")
            vm.wait_for_file("/tmp/runs")
            vm.kill()
            with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
                waiting.result(GENEROUS)
        with contextlib.suppress(VmError), pytest.raises(GuestDied):
            vm.run("true")
