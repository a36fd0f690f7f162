"""What a terminal would obey is kept from the terminal of whoever reads a report, and so is what has no end."""

import json
import time
import warnings

import pytest

from pytest_readonly_vm import CommandFailed, CommandResult, GuestWarning, TransferError, VmError
from pytest_readonly_vm.guest.commands import checked, stream_notes
from pytest_readonly_vm.printable import line, note, shown, tail

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\x00\x08\x7f\u202egnp\u2066\u200b\ufeff\udc80\x85\u2028ok"


@pytest.mark.parametrize(
    ("sent", "fit"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[H\x1b[JWelcome to \x1b[1;31mGRUB\x1b[0m", "Welcome to GRUB"),
        ("\x1b[?2004hroot@debian:~# ", "root@debian:~# "),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice control\x1b\\x", "x"),
        ("\x1bcreset \x9b2Jc1", "reset 2Jc1"),
        ("\x1b(B\x1b[mnormal", "normal"),
        ("bell\x07 back\x08 nul\x00 \x1b", "bell back nul "),
        ("größe ✓ 👩‍🚀", "größe ✓ 👩‍🚀"),
        # What hides other text: it is all there.
        ("panic\r     \r\nfine\b\b\b\bgone", "panic\n     \nfinegone"),
        ("\x1b]a sequence without an end\nthe next line", "a sequence without an end\nthe next line"),
        ("\u202eabc\u2066def\u2069\u200f", "abcdef"),
        ("one\u2028two\u2029three\x85four\x0bfive", "one two three four five"),
        ("\ud800 and \udc80", "\ufffd and \ufffd"),
    ],
)
def test_only_text_is_shown(sent: str, fit: str) -> None:
    assert shown(sent) == fit
    assert shown(fit) == fit


@pytest.mark.parametrize("kind", [VmError, TransferError, GuestWarning])
def test_every_error_and_warning_is_fit_to_be_shown_whoever_wrote_it(kind: type[Exception]) -> None:
    error = kind(f"guest: {HOSTILE}\nof two lines")
    error.add_note(f"Last lines:\n{HOSTILE}")
    assert str(error) == "guest: 31mgnp\ufffd  ok of two lines"
    assert error.__notes__ == ["Last lines:\n31mgnp\ufffd  ok"]


def test_a_warning_of_ours_can_be_raised_and_shown() -> None:
    with pytest.warns(GuestWarning, match="^failed units: evil.service$"):
        warnings.warn("failed units: \x1b[2Jevil.service", GuestWarning, stacklevel=1)


def test_the_result_of_a_command_stays_exact_and_its_failure_does_not() -> None:
    result = CommandResult("x", 1, b"\x1b[2Jout\r\n", "\u202eerr".encode(), 0.1)
    assert (result.stdout, result.stderr) == ("\x1b[2Jout\r\n", "\u202eerr")
    with pytest.raises(CommandFailed) as failure:
        checked(result, "guest")
    assert failure.value.__notes__ == ["stderr: err", "stdout: out"]


@pytest.mark.parametrize(
    ("printed", "begins"),
    [
        (bytes(39_000_000), "stdout has nothing to be seen at its end"),
        (b"x" * 39_000_000, "stdout: … xxx"),
        (b"\xff" * 39_000_000, "stdout: … \ufffd"),
        (b"line\n" * 8_000_000, "Last 20 of 8000000 lines of stdout:\nline\n"),
        (b"\x1b[" * 20_000_000, "stdout has nothing to be seen at its end"),
        (b"\x1b[" + b"1" * 39_000_000, "stdout: … 111"),
        ((b"y" * 999 + b"\n") * 40_000, "Last 20 of 40000 lines of stdout:\nyyy"),
    ],
    ids=["zeros", "one line", "no UTF-8", "short lines", "escapes", "one escape", "long lines"],
)
def test_of_megabytes_the_end_is_shown_in_bounds_and_at_once(printed: bytes, begins: str) -> None:
    began = time.process_time()
    text = stream_notes(printed, b"")[0]
    assert time.process_time() - began < 1
    assert text.startswith(begins)
    assert len(text) < 20 * 600
    assert len(text.splitlines()) <= 21


def test_a_long_line_says_how_much_of_it_is_left_out() -> None:
    [cut] = tail("a" * 3_000 + "b" * 3_000)
    assert cut == f"{'a' * 250} … (5625 characters left out) … {'b' * 125}"
    assert tail(b"x" * 1_000_000) == [f"… {'x' * 498}"]
    assert tail("short\n" + "x" * 500)[1] == "x" * 500


@pytest.mark.parametrize("bounded", [line, note])
def test_what_is_bounded_is_bounded_once(bounded: object) -> None:
    assert callable(bounded)
    text = bounded("x" * 10_000_000)
    assert len(text) < 10_000
    assert bounded(text) == text


def test_a_note_keeps_its_lines_and_a_command_line_to_paste() -> None:
    command = f"Command line: qemu-system-x86_64 {'-device x ' * 500}"
    assert note(f"one\ntwo\n{command}") == f"one\ntwo\n{command}"
    assert len(note("line\n" * 1_000_000)) < 40_000


def test_shown_can_be_written_anywhere() -> None:
    for text in (shown(HOSTILE), line(HOSTILE), note(HOSTILE), *tail(HOSTILE)):
        assert json.loads(json.dumps(text)) == text
        assert text.encode("utf-8").decode() == text
        assert text.isprintable()
