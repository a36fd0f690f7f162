"""A terminal that is lent to a byte stream, and given back however that ends. Real terminals, real processes."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.typist import Typist

LENDER = """
import socket, sys
from pytest_readonly_vm.host.terminal import Terminal
stream = socket.socket(socket.AF_UNIX)
stream.connect(sys.argv[1])
quiet = float(sys.argv[2]) if sys.argv[2:] else None
try:
    with Terminal() as terminal:
        print("size %d %d" % terminal.size(), terminal.is_interactive, flush=True)
        resized = lambda rows, columns: stream.send(b"[%d %d]" % (rows, columns))
        print(terminal.lend(stream, on_resize=resized, quiet_after_input=quiet).name, flush=True)
finally:
    print("undone", flush=True)
"""


class Other:
    """The other side of the stream."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self.path = path
        self.heard = b""

    def accept(self) -> None:
        self._server.settimeout(20)
        self.stream, _ = self._server.accept()
        self.stream.settimeout(20)

    def hear(self, expected: bytes) -> None:
        while expected not in self.heard:
            data = self.stream.recv(1 << 16)
            assert data, f"{expected!r} was not typed, but {self.heard!r}"
            self.heard += data

    def close(self) -> None:
        self._server.close()
        if hasattr(self, "stream"):
            self.stream.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    other = Other(tmp_path / "stream")
    yield other
    other.close()


@pytest.fixture
def typist(other: Other) -> Iterator[Typist]:
    with Typist([sys.executable, "-c", LENDER, str(other.path)]) as typist:
        typist.wait_for("size 24 80 True")
        other.accept()
        other.stream.sendall(b"over to you")
        typist.wait_for("over to you")
        yield typist


def test_keys_and_screen_are_the_streams_until_ctrl_and_bracket(other: Other, typist: Typist) -> None:
    assert typist.is_raw()
    typist.type("ls\r\x03\x1a\x04\x1b[A\xe4")
    other.hear(b"ls\r\x03\x1a\x04\x1b[A\xc3\xa4")
    other.stream.sendall(b"a\nb\r\n")
    typist.wait_for("a\nb\r\n")
    typist.type("last\x1dnot this")
    assert typist.wait() == 0
    typist.wait_for("LEFT\r\nundone")
    other.hear(b"last")
    assert other.stream.recv(100) == b""
    assert not typist.is_raw()


def test_the_other_side_may_end_it(other: Other, typist: Typist) -> None:
    other.stream.sendall(b"x" * 100_000 + b"the end")
    other.stream.close()
    assert typist.wait() == 0
    typist.wait_for("x{100000}the end[^x]*CLOSED\r\nundone")
    assert not typist.is_raw()


def test_a_new_size_is_told(other: Other, typist: Typist) -> None:
    typist.resize(50, 132)
    other.hear(b"[50 132]")
    typist.resize(1, 2)
    other.hear(b"[1 2]")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_a_usable_terminal(typist: Typist, number: signal.Signals) -> None:
    assert typist.is_raw()
    typist.signal(number)
    assert typist.wait() == 128 + number
    typist.wait_for("undone")
    assert not typist.is_raw()


def test_what_a_guest_did_to_the_screen_is_set_back(other: Other, typist: Typist) -> None:
    other.stream.sendall(b"\x1b[?7l\x1b[31m\x1b[?25l")
    typist.type("\x1d")
    typist.wait_for(r"\x1b\[0m\x1b\[\?25h\x1b\[\?7h")


def test_a_terminal_that_goes_away_ends_it(other: Other, typist: Typist) -> None:
    typist.hang_up()
    assert other.stream.recv(100) == b""
    typist.process.wait(20)


def test_ctrl_and_bracket_is_heard_when_nobody_takes_the_keys(other: Other, typist: Typist) -> None:
    for _ in range(200):
        typist.type("x" * 3000)
    typist.type("\x1d")
    assert typist.wait() == 0
    typist.wait_for("LEFT")


def lend_to(other: Other, input: bytes, *arguments: str) -> subprocess.Popen[bytes]:
    """The lender, with an input that is no terminal."""
    source, sink = os.pipe()
    os.write(sink, input)
    os.close(sink)
    argv = [sys.executable, "-c", LENDER, str(other.path), *arguments]
    lender = subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE)
    os.close(source)
    other.accept()
    return lender


def test_lines_of_a_file_are_typed(other: Other) -> None:
    with lend_to(other, b"one\ntwo\n", "3") as lender:
        other.hear(b"one\rtwo\r")
        other.stream.sendall(b"three\n")
        out, _ = lender.communicate(timeout=20)
    assert out == b"size 24 80 False\nthree\nINPUT_ENDED\nundone\n"


def test_the_end_of_the_input_need_not_be_the_end(other: Other) -> None:
    with lend_to(other, b"") as lender:
        other.stream.sendall(b"goes on\n")
        other.stream.close()
        out, _ = lender.communicate(timeout=20)
    assert out == b"size 24 80 False\ngoes on\nCLOSED\nundone\n"
