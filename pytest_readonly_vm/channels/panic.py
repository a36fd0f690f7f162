"""Owns the words by which kernels tell on a serial console that they panic, and what tells them from a program's. Pure.

Whoever prints the words is no kernel for that. A kernel's own line begins with a time stamp, or with the line; more is
printed behind it, where the kernel was and that it is done; and then nobody prints anything any more. The words are
those of the kernels' own sources: Linux's ``panic()``, the BSDs', those of Windows' emergency services.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_readonly_vm.printable import shown

_STAMP = r"\[ *(\d+\.\d+)\](?:\[[^\]]*\])? *"  # of Linux, which may add a thread, and of NetBSD
_STAMPED = re.compile(_STAMP)
_LINUX = re.compile(rf"(?:{_STAMP})?Kernel panic - not syncing: (.+)")
_LINUX_IS_DONE = re.compile(r"---\[ end Kernel panic - not syncing: (.+?)(?: \]---)?$")
_LINUX_GOES_ON = re.compile(
    rf"(?:{_STAMP})?(?:CPU: \d+ (?:UID: \d+ )?PID: \d+ Comm: |Hardware name: |Call [Tt]race:|Kernel Offset: "
    r"|Rebooting in \d+ seconds)"
)
_BSD = re.compile(rf"(?:{_STAMP})?panic: (.+)")
# FreeBSD; OpenBSD; NetBSD. Go programs begin with the same words and go on with others.
_BSD_GOES_ON = re.compile(rf"cpuid = |time = |Stopped at |(?:{_STAMP})?cpu\d+: Begin traceback")
_WINDOWS = re.compile(r"\*\*\* STOP: 0x[0-9A-Fa-f]+.*")
_DEBUGGER = re.compile(r"k?d+b(?:\{\d+\})?> *$")

_TOLERANCE = 1.0
"""Seconds by which the clocks of a guest's processors may differ."""

_LONGEST_LINE = 8192
"""Characters of a line that are looked at, the last ones."""


def is_panic(line: str) -> bool:
    """Whether a line has the words of a panic, whoever has printed it."""
    return any(words.search(line) for words in (_LINUX, _BSD, _WINDOWS)) and not _LINUX_IS_DONE.search(line)


class Belief(enum.IntEnum):
    """How far a line is to be believed, before anybody has asked the guest whether it lives."""

    DOUBTFUL = 1
    """It may be a program's: it continues another text, or has no time stamp though the kernel's lines have."""
    PLAUSIBLE = 2
    """It looks like the kernel's."""
    PROVEN = 3
    """What follows is what a kernel prints when it panics."""
    CERTAIN = 4
    """A pattern of the user's says so."""


@dataclass(slots=True)
class Suspicion:
    """The words of a panic that the console has shown."""

    words: str
    belief: Belief
    is_over: bool = False
    """Whether the kernel has said that it is done."""


class PanicWatch:
    """Reads what a console shows, in any pieces; what it costs depends on the length of a piece alone."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """`patterns` are regular expressions that mean a panic, each within one line."""
        self._patterns = [re.compile(pattern, re.MULTILINE) for pattern in patterns]
        self.suspicion: Suspicion | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """The guest boots again."""
        self.suspicion = None
        self._line: list[str] = []
        self._length = 0
        self._before = ""
        self._latest: float | None = None

    def read(self, text: str) -> bool:
        """Take the next piece; whether there is something new about a panic."""
        if "\n" not in text:
            self._keep(text)
            return False
        *lines, rest = ("".join(self._line) + text).split("\n")
        self._line, self._length = [], 0
        self._keep(rest)
        found = [self._look(line) for line in lines]
        return any(found)

    def is_asked_for_input(self) -> bool:
        """Whether the last line is one that waits for an answer, which a panicked kernel does only in its debugger."""
        line = shown("".join(self._line)).strip()
        return bool(line) and not _STAMPED.match(line) and not _DEBUGGER.search(line)

    def _keep(self, text: str) -> None:
        self._line.append(text)
        self._length += len(text)
        if self._length > 2 * _LONGEST_LINE:
            self._line = ["".join(self._line)[-_LONGEST_LINE:]]
            self._length = len(self._line[0])

    def _look(self, line: str) -> bool:
        """Whether a line is about a panic."""
        before, self._before = self._before, line
        line = line[-_LONGEST_LINE:]
        for pattern in self._patterns:
            if match := pattern.search(line + "\n") or pattern.search(shown(line) + "\n"):
                self._suspect(match[0], Belief.CERTAIN)
                return True
        is_new = False
        if "panic" in line or "STOP" in line or self.suspicion is not None or "panic: " in before:
            is_new = self._judge(shown(line), shown(before)) or ("\x1b" in line and self._judge(line, before))
        if line.startswith("[") and (stamp := _STAMPED.match(line)):
            self._latest = float(stamp[1])
        return is_new

    def _judge(self, line: str, before: str) -> bool:
        if done := _LINUX_IS_DONE.search(line):
            self._suspect(done[1], Belief.PROVEN).is_over = True
        elif words := _LINUX.search(line):
            self._suspect(words[2], self._belief(words))
        elif words := _WINDOWS.search(line):
            self._suspect(words[0], Belief.PLAUSIBLE)
        elif _BSD_GOES_ON.match(line) and (words := _BSD.search(before)):
            self._suspect(words[2], Belief.PROVEN)
        elif self.suspicion is not None and _LINUX_GOES_ON.match(line):
            if self.suspicion.belief >= Belief.PROVEN:
                return False
            self.suspicion.belief = Belief.PROVEN
        else:
            return False
        return True

    def _belief(self, words: re.Match[str]) -> Belief:
        """What to think of a line of Linux's by its beginning."""
        if words.start() > 0:
            return Belief.DOUBTFUL  # a prompt stood there, or somebody quotes
        if words[1] is None:
            return Belief.PLAUSIBLE if self._latest is None else Belief.DOUBTFUL
        is_late = self._latest is None or float(words[1]) >= self._latest - _TOLERANCE
        return Belief.PLAUSIBLE if is_late else Belief.DOUBTFUL

    def _suspect(self, words: str, belief: Belief) -> Suspicion:
        found = self.suspicion
        if found is None or found.belief <= belief:
            self.suspicion = found = Suspicion(shown(words).strip(), belief)
        return found
