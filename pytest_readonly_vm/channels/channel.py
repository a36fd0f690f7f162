"""Owns what every channel can do: run a script in the guest and move bytes. The ways to do it are files beside this."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

Sink = Callable[[bytes], object]
"""Takes the next piece of what a command printed, or of a file; called on the loop."""


class Channel(Protocol):
    """A way to run things in one guest. Every method is for the loop; several may run at once."""

    name: str
    """``agent``, ``ssh`` or ``shell``."""

    async def open(self) -> None:
        """Return when the channel has answered; waits as long as it takes, so the caller bounds it.

        May be called again when the guest has booted anew.
        """

    async def part(self) -> Mapping[str, Any] | None:
        """What the guest has of this conversation, as JSON can say it, for whoever goes on with a copy of the guest.

        None when it cannot be gone on with there. The guest's end of it is closed in that case, so that no copy has it.
        """

    async def resume(self, parted: Mapping[str, Any]) -> None:
        """Go on, in a copy of the guest, with a conversation that was parted from; its first use shows if it answers.

        :raises GuestDied, ChannelLost: as `execute`.
        """

    def is_open(self) -> bool:
        """Whether it has answered, and nothing is known that has ended it since."""

    def why_not(self) -> str:
        """Why it has not answered, as far as known: ``silent``, ``connection refused (is sshd installed?)``."""

    async def execute(self, script: bytes, *, input: bytes, stdout: Sink, stderr: Sink) -> int:
        """Run a script as root in a shell of its own and return its exit status; 128 + N for a death by signal N.

        The status may come while a child in the background still has the streams; what it prints later is not read.
        When this is cancelled, the script and all that it started is killed in the guest, and what it had printed by
        then is given to the sinks before the cancellation goes on.

        :raises GuestDied: QEMU ended.
        :raises ChannelLost: the guest rebooted, or the guest's end of the channel went away.
        """

    async def keep_helper(self, program: bytes, *, idle: int, trial: bytes) -> None:
        """Have a program started that waits in the guest, and in copies of it, for `ask_helper`; see `helper`.

        Nothing is said where that is not possible.

        :param idle: its exit status when it has had no message.
        :param trial: a message that has no effect.
        :raises GuestDied, ChannelLost: as `execute`.
        """

    async def ask_helper(self, message: bytes) -> bool:
        """Pass a message to that program; whether it has done what was wanted. False if there is none.

        :raises GuestDied, ChannelLost: as `execute`.
        """

    async def read_file(self, path: bytes, sink: Sink) -> None:
        """Give a file's content to the sink, piece by piece.

        :raises FileNotFoundError, PermissionError, IsADirectoryError, OSError: it cannot be read; `filename` is set.
        :raises GuestDied, ChannelLost: as `execute`.
        """

    async def write_file(self, path: bytes, content: AsyncIterator[bytes]) -> None:
        """Write a file, made or emptied first, piece by piece.

        :raises FileNotFoundError, PermissionError, IsADirectoryError, OSError: it cannot be written.
        :raises GuestDied, ChannelLost: as `execute`.
        """

    async def close(self) -> None:
        """Let go of what is open on the host. The guest is not asked."""


async def content_of(data: bytes) -> AsyncIterator[bytes]:
    """Bytes that are all there, as `Channel.write_file` takes them."""
    yield data


def parts(data: bytes, size: int) -> Iterator[bytes]:
    """Some bytes, so many at a time."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
