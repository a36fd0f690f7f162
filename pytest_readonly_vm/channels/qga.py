"""Owns the requests to the QEMU guest agent over a virtio-serial port, and what may come as an answer: anything.

The protocol: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html. The agent serves one request at a time.
"""

import asyncio
import base64
import contextlib
import json
import secrets
from typing import Any, TypeVar

from pytest_readonly_vm.channels.port import Port
from pytest_readonly_vm.errors import ChannelError
from pytest_readonly_vm.host.loop import quiet
from pytest_readonly_vm.printable import shown

T = TypeVar("T")

_SENTINEL = b"\xff"


class AgentRefusal(Exception):
    """The agent answered a request with an error."""


class Qga:
    """The agent that has a port open. Everything is for the loop.

    :raises AgentRefusal, ChannelError, GuestDied: any request; the second also if what is answered makes no sense.
    """

    def __init__(self, port: Port, name: str) -> None:
        self._port = port
        self._name = name
        self._turn = asyncio.Lock()
        self._opening = -1  # the port's losses when the agent answered

    @property
    def is_open(self) -> bool:
        """Whether the guest has had the port open ever since the agent answered."""
        return self._opening == self._port.losses

    async def sync(self) -> None:
        """Throw away what is left of an earlier conversation, then agree on a number; waits as long as it takes."""
        # If the guest closes the port meanwhile, it may have taken the question along: to be asked again.
        self._opening = self._port.losses
        await self._port.race(self._sync(), since=self._opening)

    async def _sync(self) -> None:
        async with self._turn:
            number = secrets.randbelow(1 << 31)
            request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
            await self._port.send(_SENTINEL + json.dumps(request).encode() + b"\n")
            while True:
                _, sentinel, answer = (await self._port.line()).rpartition(_SENTINEL)
                with contextlib.suppress(ValueError):
                    if sentinel and json.loads(answer) == {"return": number}:
                        return

    async def _ask(self, command: str, /, **arguments: object) -> Any:
        """One request and its answer; never left half done, whoever is cancelled."""
        return await asyncio.shield(quiet(asyncio.ensure_future(self._exchange(command, arguments))))

    async def _exchange(self, command: str, arguments: dict[str, object]) -> Any:
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        async with self._turn:
            await self._port.send(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
            line = await self._port.race(self._port.line(), since=self._opening)
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._nonsense(line) from None
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise AgentRefusal(shown(str(answer["error"].get("desc", "no reason given"))))
        return self._field(answer, "return", object)

    def _field(self, answer: object, name: str, kind: type[T]) -> T:
        return self._kind(answer.get(name) if isinstance(answer, dict) else answer, kind)

    def _kind(self, value: object, kind: type[T]) -> T:
        if not isinstance(value, kind):
            raise self._nonsense(value)
        return value

    def _nonsense(self, answer: object) -> ChannelError:
        return ChannelError(f"{self._name}: the guest agent answers what makes no sense: {answer!r:.80}")

    # Programs.

    async def start(self, path: str, *arguments: str) -> int:
        """Start a program and return its number."""
        return self._field(await self._ask("guest-exec", path=path, arg=arguments), "pid", int)

    async def has_ended(self, process: int) -> bool:
        """Whether a program that was started has ended; if so the agent forgets it."""
        return self._field(await self._ask("guest-exec-status", pid=process), "exited", bool)

    # Files.

    async def open_file(self, path: str, mode: str) -> int:
        """A handle of a file; `mode` is that of C."""
        return self._kind(await self._ask("guest-file-open", path=path, mode=mode), int)

    async def read(self, handle: int, count: int) -> tuple[bytes, bool]:
        """The next piece, and whether that is the end for now."""
        read = await self._ask("guest-file-read", handle=handle, count=count)
        text = self._field(read, "buf-b64", str)
        try:
            return base64.b64decode(text), self._field(read, "eof", bool)
        except ValueError:
            raise self._nonsense(text) from None

    async def write(self, handle: int, data: bytes) -> int:
        """How much of it, from its beginning, the agent has taken."""
        written = await self._ask("guest-file-write", handle=handle, buf_b64=base64.b64encode(data).decode())
        count = self._field(written, "count", int)
        if not 0 < count <= len(data):
            raise self._nonsense(written)
        return count

    async def flush(self, handle: int) -> None:
        """Have it written what the agent has taken."""
        await self._ask("guest-file-flush", handle=handle)

    async def close_file(self, handle: int) -> None:
        """Give a handle back."""
        await self._ask("guest-file-close", handle=handle)
