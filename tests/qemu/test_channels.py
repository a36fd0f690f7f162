"""What commands promise, over each channel, on guests that nobody prepared for it."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_readonly_vm import CommandFailed, VirtualMachine
from tests.qemu.channels import COPIES, GROUPS, ended_by_its_limit, machine_of_each
from tests.qemu.waiting import GENEROUS

LARGE = {"tiny-shell-clone": 96 << 20}
"""Bytes of output; elsewhere less, as an emulated Debian's agent and sshd take half a minute for it."""

vm = machine_of_each(GROUPS)


class TestRun:
    def test_answers_over_the_channel_that_was_asked_for(self, vm: VirtualMachine) -> None:
        assert vm.run("id -u").stdout == "0\n"
        _, asked_for, _ = vm.name.split("-")
        assert vm.channel in (("agent", "shell") if asked_for == "auto" else (asked_for,))

    def test_a_copy_has_the_right_time_by_a_program_that_waited_in_it(self, vm: VirtualMachine) -> None:
        # It was told the time while it was made ready; its seconds are whole ones.
        earliest = time.time() - vm.boot_seconds - 1
        assert earliest < int(vm.run("date +%s").stdout) < time.time() + 0.5
        if vm.name not in COPIES and vm.channel != "ssh":  # these open their channel in the copy
            channel = vm.instance.channels.found
            assert channel is not None
            assert (vm.loop.run(channel.part()) or {})["has_helper"]

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
        assert failure.value.__notes__[1].startswith("Last 20 of 100 lines of stdout:\n81\n")
        assert failure.value.__notes__[0] == "stderr: oops"

    def test_input_environment_folder_and_user(self, vm: VirtualMachine) -> None:
        assert vm.run("cat; wc -c </dev/null", input="ü\0").stdout == "ü\x000\n"
        assert vm.run(["sh", "-c", "echo $A-$B"], env={"A": "it's", "B": "$HOME"}).stdout == "it's-$HOME\n"
        assert vm.run("pwd; echo $HOME", cwd="/proc").stdout.split() == ["/proc", "/root"]
        vm.run("id nobody || echo nobody:x:65534:65534::/:/bin/sh >>/etc/passwd", check=False)
        who = vm.run(["id", "-un"], user="nobody", check=False)
        assert who.stdout == "nobody\n", who.stderr
        assert vm.run("pwd", cwd="/nowhere", check=False).exit_code != 0

    def test_input_of_megabytes(self, vm: VirtualMachine) -> None:
        data = os.urandom(2 << 20)
        assert vm.run("sha256sum", input=data).stdout.split()[0] == hashlib.sha256(data).hexdigest()

    def test_a_command_of_megabytes(self, vm: VirtualMachine) -> None:
        assert vm.run(f": {'x' * (1 << 20)}; echo done").stdout == "done\n"

    def test_output_of_many_megabytes(self, vm: VirtualMachine) -> None:
        size = LARGE.get(vm.name, 10 << 20)
        result = vm.run(f"head -c {size} /dev/zero")
        assert len(result.stdout_bytes) == size
        assert result.stdout_bytes.count(b"\0") == size

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
        vm.run("true")  # the search for a channel would count
        command = "echo early; echo hmm >&2; sleep 4242 | cat & sleep 4243"
        timeout = ended_by_its_limit(vm, command, stdout="early\n", stderr="hmm\n")
        assert "was killed: echo early" in str(timeout)
        assert (timeout.stdout, timeout.stderr) == ("early\n", "hmm\n")
        assert timeout.__notes__ == ["stderr: hmm", "stdout: early"]
        assert "424" not in vm.run("ps -e -o args || ps").stdout.replace("ps -e", "")
        assert vm.run("echo on we go").stdout == "on we go\n"

    def test_nothing_of_ours_is_in_its_environment(self, vm: VirtualMachine) -> None:
        assert "_rv_" not in vm.run("env").stdout
