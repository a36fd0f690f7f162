"""Owns what came of a command in the guest. Pure.

It is below the errors, one of which has such a result.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command in the guest ended."""

    command: str
    exit_code: int
    """128 + N when it was killed by signal N, as shells have it."""
    stdout_bytes: bytes = field(repr=False)
    stderr_bytes: bytes = field(repr=False)
    duration: float
    """Seconds, on the host's clock, with the way there and back."""

    @property
    def stdout(self) -> str:
        """As UTF-8; what is none becomes U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """As `stdout`."""
        return self.stderr_bytes.decode(errors="replace")


CommandResult.__module__ = "pytest_readonly_vm"  # where it is imported from, and by which it is pickled
