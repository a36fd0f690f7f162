"""The console keeps what its docstrings say: every byte, patterns found once, words before an end, bounded sending."""

import contextlib
import itertools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_readonly_vm import Console, GuestDied, VirtualMachine, WaitTimeout
from pytest_readonly_vm.channels.liveness import Liveness
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Spawner
from tests.conftest import READY
from tests.qemu.conftest import STARTS
from tests.qemu.waiting import GENEROUS, eventually


@pytest.fixture
def vm_image(boot_sector: Callable[[str], Path]) -> Path:
    return boot_sector("echo")


@pytest.fixture(params=STARTS)
def vm_start(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestExpect:
    def test_finds_what_the_guest_answers(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("ping 42\n")
        match = readonly_vm.console.expect(r"ping (\d+)\n")
        assert match[1] == "42"

    def test_looks_only_behind_what_the_previous_one_found(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("one two one\n")
        for pattern in ("one", "two", "one"):
            readonly_vm.console.expect(pattern)
        with pytest.raises(WaitTimeout):
            readonly_vm.console.expect("one", timeout=0.1)

    def test_finds_what_made_the_guest_ready_and_finds_it_once(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.expect(READY, timeout=0.1)
        with pytest.raises(WaitTimeout):
            readonly_vm.console.expect(READY, timeout=0.1)

    def test_means_the_ends_of_lines_in_a_text(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("first\nsecond x $ y\nthird $")
        match = readonly_vm.console.expect(r"^(\w+) \$$")
        assert match[1] == "third"

    def test_takes_a_compiled_pattern_as_it_is(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("first\nSECOND\n")
        assert readonly_vm.console.expect(re.compile("first.second", re.DOTALL | re.IGNORECASE))

    def test_finds_a_pattern_that_comes_in_pieces(self, readonly_vm: VirtualMachine) -> None:
        with ThreadPoolExecutor(1) as threads:
            wait = threads.submit(readonly_vm.console.expect, "abcdef", GENEROUS)
            for piece in ("ab", "cd", "ef"):
                readonly_vm.console.send(piece)
                eventually(lambda piece=piece: piece in readonly_vm.console.text, piece)  # type: ignore[misc]
            assert wait.result()[0] == "abcdef"

    def test_times_out_with_the_last_lines(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("last words\n")
        readonly_vm.console.expect("last words\n")
        with pytest.raises(WaitTimeout, match=r"the console did not show 'never' within 0\.1 s") as timeout:
            readonly_vm.console.expect("never", timeout=0.1)
        assert isinstance(timeout.value, TimeoutError)
        assert "Last console lines:" in timeout.value.__notes__[0]
        assert timeout.value.__notes__[0].endswith("last words")

    def test_loses_nothing_that_comes_in_the_moment_of_a_deadline(self, readonly_vm: VirtualMachine) -> None:
        deadlines = itertools.cycle(number / 10_000 for number in range(1, 40))
        for number in range(300):
            readonly_vm.console.send(f"<{number}>")
            end = time.monotonic() + GENEROUS
            found = None
            while not found and time.monotonic() < end:
                with contextlib.suppress(WaitTimeout):
                    found = readonly_vm.console.expect(f"<{number}>", timeout=next(deadlines))
            assert found, "the console showed it, and no expect found it"

    def test_keeps_its_deadline_while_the_guest_never_stops_talking(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("chatter", ready="console:^line 00000001$")
        machine.console.expect("line 00002000", timeout=GENEROUS)
        with pytest.raises(WaitTimeout):
            machine.console.expect("never", timeout=0.5)

    def test_serves_several_threads(self, readonly_vm: VirtualMachine) -> None:
        words = [f"word{number:02}" for number in range(8)]
        with ThreadPoolExecutor(len(words)) as threads:
            waits = [threads.submit(readonly_vm.console.expect, word, GENEROUS) for word in words]
            # Each takes what is before its own word as well, so the order of the words is theirs.
            for word, wait in zip(words, waits, strict=True):
                readonly_vm.console.send(word)
                assert wait.result(GENEROUS)[0] == word


class TestText:
    def test_has_all_that_was_sent_since_the_start(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("typed\n")
        readonly_vm.console.expect("typed\n")
        assert readonly_vm.console.text.startswith(READY)
        assert readonly_vm.console.text.endswith("typed\n")
        assert readonly_vm.console.log_path.read_text() == readonly_vm.console.text

    def test_outlives_the_machine(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.close()
        assert READY in readonly_vm.console.text
        assert readonly_vm.console.tail() == READY.strip()

    def test_shows_the_last_lines_without_blank_ones_at_the_end(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("\n".join(f"{number}" for number in range(100)) + "\n\n  \n")
        readonly_vm.console.expect("99\n\n  \n")
        assert readonly_vm.console.tail(3) == "97\n98\n99"
        assert len(readonly_vm.console.tail().splitlines()) == 20

    def test_replaces_what_is_no_utf8_and_keeps_it_in_the_log(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send(b"caf\xe9 \xff\xfe end\n")
        assert readonly_vm.console.expect(r"caf(.) (..) end\n")[2] == "\ufffd\ufffd"
        assert b"caf\xe9 \xff\xfe end\n" in readonly_vm.console.log_path.read_bytes()
        assert "caf\ufffd \ufffd\ufffd end" in readonly_vm.console.text

    def test_puts_a_character_together_that_comes_in_two_pieces(self, readonly_vm: VirtualMachine) -> None:
        before = readonly_vm.console.log_path.stat().st_size
        for number, byte in enumerate("é…😀".encode(), start=1):
            readonly_vm.console.send(bytes([byte]))
            eventually(
                lambda number=number: readonly_vm.console.log_path.stat().st_size == before + number,  # type: ignore[misc]
                "the byte",
            )
        assert readonly_vm.console.expect("é…😀")


class TestTheEndOfQemu:
    def test_leaves_the_guests_last_word_to_be_found(self, boot: Callable[..., VirtualMachine]) -> None:
        for _ in range(5):
            # Cold, for it is off before a slow computer, where a copy would be worth it, has frozen it.
            machine = boot("powers_off", ready="none", start="cold")
            assert machine.console.expect(READY, timeout=GENEROUS)
            with pytest.raises(GuestDied, match="QEMU exited with status 0"):
                machine.console.expect("more", timeout=GENEROUS)

    def test_leaves_the_past_to_be_found_long_after(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.console.send("one two\n")
        readonly_vm.console.expect("one")
        eventually(lambda: "two\n" in readonly_vm.console.text, "the echo")
        readonly_vm.kill()
        assert readonly_vm.console.expect("two")
        with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
            readonly_vm.console.expect("three", timeout=GENEROUS)
        readonly_vm.close()
        with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
            readonly_vm.console.expect("three", timeout=GENEROUS)

    def test_wakes_all_waiters_at_once(self, readonly_vm: VirtualMachine) -> None:
        waiting = threading.Barrier(11)

        def wait() -> GuestDied:
            waiting.wait(GENEROUS)
            with pytest.raises(GuestDied) as death:
                readonly_vm.console.expect("never", timeout=10 * GENEROUS)
            return death.value

        with ThreadPoolExecutor(10) as threads:
            waits = [threads.submit(wait) for _ in range(10)]
            waiting.wait(GENEROUS)
            os.kill(readonly_vm.pid, signal.SIGABRT)
            deaths = {str(wait.result(GENEROUS)) for wait in waits}
        assert deaths == {f"{readonly_vm.name}: QEMU was killed by SIGABRT"}

    def test_is_what_sending_reports_as_well(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.kill()
        with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
            readonly_vm.console.send("anybody there?\n")

    def test_is_what_sending_reports_when_the_machine_has_been_closed(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.close()
        with pytest.raises(GuestDied, match="QEMU exited with status 0"):
            readonly_vm.console.send("anybody there?\n")

    def test_wakes_a_sender(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("hello")
        with ThreadPoolExecutor(1) as threads:
            wait = threads.submit(machine.console.send, "x" * (4 << 20), 10 * GENEROUS)
            os.kill(machine.pid, signal.SIGKILL)
            with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
                wait.result(GENEROUS)


class TestSend:
    def test_is_bounded_when_the_guest_does_not_read(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("hello")
        for _ in range(2):
            with pytest.raises(WaitTimeout, match="the guest did not take what was sent to its console"):
                machine.console.send("x" * (4 << 20), timeout=0.2)
        assert machine.qmp.execute("query-status")["running"]

    def test_keeps_whole_what_several_threads_send_at_once(self, tmp_path: Path) -> None:
        texts = [letter * (1 << 20) + b"\n" for letter in (b"a", b"b", b"c")]
        with listener(tmp_path) as (console, port), ThreadPoolExecutor(len(texts)) as threads:
            waits = [threads.submit(console.send, text, GENEROUS) for text in texts]
            arrived = b""
            port.settimeout(GENEROUS)
            while len(arrived) < sum(map(len, texts)):
                arrived += port.recv(1 << 20)
            for wait in waits:
                wait.result()
        assert sorted(arrived.splitlines(keepends=True)) == texts


class TestAFullDisk:
    def test_takes_nothing_from_those_who_wait_and_watch(self, tmp_path: Path) -> None:
        (tmp_path / "log").symlink_to("/dev/full")
        with listener(tmp_path) as (console, port):
            heard: list[str] = []
            console.listeners.append(heard.append)
            for number in range(3):
                port.sendall(f"line {number}\n".encode())
                assert console.expect(f"line {number}\n", timeout=10)
            assert "".join(heard) == console.text == "line 0\nline 1\nline 2\n"
            assert console.transcript().data == b"line 0\nline 1\nline 2\n"
            assert console.loss == f"the log of the console ends early: No space left on device: {tmp_path}/log"
            with pytest.raises(WaitTimeout) as timeout:
                console.expect("never", timeout=0.01)
            assert timeout.value.__notes__[0].endswith(f"line 2\n({console.loss})")
            assert [one.what for one in console._history.entries() if one.kind == "state"] == [console.loss]


@contextlib.contextmanager
def listener(folder: Path) -> Iterator[tuple[Console, socket.socket]]:
    """A console, and the other end of its line in our own hands: faster than any guest at its serial port."""
    with contextlib.ExitStack() as stack:
        loop = LoopThread()
        stack.callback(loop.close)
        spawner = Spawner(loop)
        stack.callback(spawner.close)
        ours, consoles = socket.socketpair()
        stack.enter_context(ours)
        process = spawner.start(["sleep", "600"], name="listener", env=os.environ, pass_fds=(), ruleset=None)
        console = Console(loop, process, Liveness(process), consoles, folder / "log", "listener")
        stack.callback(loop.loop.call_soon_threadsafe, console.close)
        yield console, ours
