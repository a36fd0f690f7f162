"""Owns how text that is not ours comes before a person: without what a terminal would obey, and in bounds. Pure.

A guest prints what it likes: sequences that command a terminal, characters that hide or reorder others, a line of
megabytes. Every error and warning of this package passes its words through here (see `errors`), and so does what is
shown beside them. What a program reads, such as `CommandResult.stdout`, stays exact.
"""

import re

_LINES = 20
_LONGEST_LINE = 500
_LONGEST_NOTE = 1 << 15
_LONGEST_LINE_OF_A_NOTE = 1 << 13  # room for QEMU's command line, which is to be pasted
_WINDOW = 1 << 16
"""Of a long text only so much is looked at, from its end: characters, or bytes."""

# As texts, compiled when first used: this is loaded in runs, too, that use no machine.
_LINE_ENDS = r"\r+\n?"
_SPACES = "[\x0b\x0c\x85\u2028\u2029]"  # which some take for the end of a line
_SURROGATES = "[\ud800-\udfff]"  # which cannot be encoded, so that to print one is an error
_OBEYED = (
    # Escape sequences of ECMA-48: CSI; OSC and its like, which must have an end; charsets and others.
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b[ -/]+[0-~]|\x1b.?"
    # Control characters, those of C1 as well.
    r"|[\x00-\x08\x0e-\x1f\x7f-\x9f]"
    # What is not seen and reorders, hides or marks what is: Unicode's bidirectional controls, joiners of words, tags.
    "|[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def shown(text: str) -> str:
    """A text of any length with nothing in it but what can be seen, and line ends."""
    text = re.sub(_SPACES, " ", re.sub(_LINE_ENDS, "\n", text))
    return re.sub(_SURROGATES, "\ufffd", re.sub(_OBEYED, "", text))


def line(text: str, most: int = _LONGEST_LINE_OF_A_NOTE) -> str:
    """A text on one line, such as a headline."""
    return _cut(re.sub(r"\s*\n\s*", " ", shown(_cut(text, _LONGEST_NOTE)).strip()), most)


def note(text: str) -> str:
    """A text of several lines, such as the note of an error."""
    lines = shown(_cut(text, _LONGEST_NOTE)).split("\n")
    return "\n".join(_cut(one, _LONGEST_LINE_OF_A_NOTE) for one in lines)


def tail(text: str | bytes, lines: int = _LINES) -> list[str]:
    """The last lines of what may be megabytes, blank ones at the end apart; none if there is nothing to be seen."""
    text = text.rstrip()
    end = text[-_WINDOW:]
    seen = shown(end.decode(errors="replace") if isinstance(end, bytes) else end).rstrip()
    found = seen.split("\n") if seen else []
    if len(end) < len(text) and len(found) <= lines:
        found[:1] = [f"… {one[2 - _LONGEST_LINE :]}" for one in found[:1]]  # whose beginning was not looked at
    return [_cut(one, _LONGEST_LINE) for one in found[-lines:]]


def count(number: int, noun: str) -> str:
    """``1 test``, ``2 tests``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _cut(text: str, most: int) -> str:
    """A text whose middle is left out if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    end, start = most // 4, most // 2  # and the rest is room for the words between
    return f"{text[:start]} … ({len(text) - start - end} characters left out) … {text[-end:]}"
