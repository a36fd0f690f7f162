"""Owns what came of a command in the guest. Pure.

It is below the errors, one of which has such a result.
"""

from dataclasses import dataclass, replace

_LONGEST_STREAM = 60
_LONGEST_COMMAND = 40
KEPT = 1 << 16
"""Bytes of a stream, its last ones, that are kept for a report."""


@dataclass(frozen=True, slots=True, repr=False)
class CommandResult:
    """How a command in the guest ended."""

    command: str
    exit_code: int
    """128 + N when it was killed by signal N, as shells have it."""
    stdout_bytes: bytes
    stderr_bytes: bytes
    duration: float
    """Seconds, on the host's clock, with the way there and back."""

    def __repr__(self) -> str:
        """With the ends of both streams, which is where a program says why; pytest shows at most 240 characters."""
        parts = [f"exit_code={self.exit_code}"]
        parts += [
            f"{name}={_end(data)}" for name, data in (("stderr", self.stderr_bytes), ("stdout", self.stdout_bytes))
        ]
        parts += [f"command={_beginning(self.command)}", f"duration={self.duration:.3f}"]
        return f"CommandResult({', '.join(parts)})"

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    def __bool__(self) -> bool:
        """As `ok`: ``assert vm.run(…, check=False)`` is meant so, and would pass always."""
        return self.ok

    @property
    def stdout(self) -> str:
        """As UTF-8; what is none becomes U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """As `stdout`."""
        return self.stderr_bytes.decode(errors="replace")

    def without_most(self) -> "CommandResult":
        """The same with the last 64 KiB of each stream, of which nothing is missing that a report shows."""
        if max(len(self.stdout_bytes), len(self.stderr_bytes)) <= KEPT:
            return self
        return replace(self, stdout_bytes=self.stdout_bytes[-KEPT:], stderr_bytes=self.stderr_bytes[-KEPT:])


def _end(printed: bytes) -> str:
    text = repr(printed[-4 * _LONGEST_STREAM :].decode(errors="replace"))  # a character has at most four bytes
    if len(text) <= _LONGEST_STREAM:  # as that of more bytes than were looked at never is
        return text
    return f"{text[-1]}…{text[2 - _LONGEST_STREAM :]}"


def _beginning(command: str) -> str:
    text = repr(command[:_LONGEST_COMMAND])
    if len(command) <= _LONGEST_COMMAND >= len(text):
        return text
    return f"{text[: _LONGEST_COMMAND - 2]}…{text[-1]}"


CommandResult.__module__ = "pytest_readonly_vm"  # where it is imported from, and by which it is pickled
