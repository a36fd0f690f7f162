"""What a failed assert shows of a command, for which pytest has 240 characters."""

import dataclasses

import pytest

from pytest_readonly_vm import CommandResult


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize(
    "printed",
    [
        b"",
        b"short\n",
        "é".encode() * 57,
        "é".encode() * 59,
        b"x" * 10_000,
        b"\xff" * 10_000,
        b"\x00" * 10_000,
        "\U0001f600".encode() * 10_000,
        b"'\"" * 99,
    ],
)
@pytest.mark.parametrize("command", ["true", "é'\n" * 1000])
def test_it_fits(code: int, printed: bytes, command: str) -> None:
    result = CommandResult(command, code, printed, printed, 12345.678)
    assert len(repr(result)) <= 240
    assert repr(result).isprintable()
    assert result.ok == bool(result) == (code == 0)


def test_it_shows_the_ends_of_what_was_printed_and_the_cause_first() -> None:
    result = CommandResult("cat x; " * 9, 1, b"out\n", b"noise " * 20 + b"cat: x: No such file\n", 0.1234)
    assert repr(result) == (
        "CommandResult(exit_code=1, stderr='…oise noise noise noise noise noise cat: x: No such file\\n', "
        "stdout='out\\n', command='cat x; cat x; cat x; cat x; cat x; ca…', duration=0.123)"
    )


@pytest.mark.parametrize("printed", ["é" * 58, "'\U0001f600'" * 14])
def test_what_has_room_is_shown_whole_however_many_bytes_it_is(printed: str) -> None:
    assert f"stdout={printed!r}, " in repr(CommandResult("x", 0, printed.encode(), b"", 0.1))


def test_what_is_kept_for_a_report_is_known_by_the_same_text() -> None:
    result = CommandResult("x", 0, b"a" * 1_000_000 + b"end", b"", 0.1)
    kept = result.without_most()
    assert len(kept.stdout_bytes) < 100_000
    assert repr(kept) == repr(result)
    assert dataclasses.replace(result, stdout_bytes=b"").without_most() == dataclasses.replace(result, stdout_bytes=b"")
