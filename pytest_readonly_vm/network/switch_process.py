"""Owns the process that is a network's switch, as we see it: its start, the line to it, its end.

It is a process and no thread: beside a test that computes, a thread of the same Python has a frame wait 5 to 8 ms for
its turn, a process 0.1.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pytest_readonly_vm.errors import NetworkError, StartFailed, SwitchDied
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.host.process import Process, Spawner
from pytest_readonly_vm.host.seal import Bounds, landlock_abi

_START = (
    "import sys; sys.path.insert(0, {folder!r}); from pytest_readonly_vm.network.switch.program import main; main()"
)
_NEEDED = ("LD_LIBRARY_PATH",)
"""Of the environment what Python itself may need. Nothing else of it is the business of who reads what guests send."""
_LARGEST_ANSWER = 1 << 20
_ANSWERS = 1000
_PATIENCE = 30.0
_FULL = 0.001

Ask = Callable[..., Coroutine[Any, Any, Any]]
"""Asks a switch, on the loop; see `SwitchProcess.ask`."""
Asked = Callable[[int, int, tuple[int, int], bytes], None]
"""Hears that the switch waits for an answer: its number, the fault's, the way of a frame, the frame."""


class SwitchProcess:
    """A switch that runs. It may neither write files nor use TCP, and is over when this process is."""

    def __init__(self, spawner: Spawner, loop: LoopThread, *, label: str, run_folder: Path, remembered: int) -> None:
        """Start it; it need not be waited for.

        :param label: what it is called in messages.
        :param run_folder: the run's own, by whose name a later run knows what this one has left.
        :param remembered: bytes of frames that it remembers.
        :raises StartFailed: it cannot be started.
        """
        self.label = label
        self.on_asked: Asked = lambda number, fault, pair, frame: None
        self.on_port_end: Callable[[int, str], None] = lambda port, why: None
        """Hears on the loop of a port whose card has gone, and why, if it was for something that the card sent."""
        self.on_present: Callable[[str], None] = lambda mac: None
        """Hears on the loop that a card has the address that it was expected to have."""
        self._loop = loop
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answers: list[tuple[int, bool]] = []
        self._answering: asyncio.Task[None] | None = None
        try:
            self._line, its_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise StartFailed(f"{label}: its switch could not be started: {explain(error) or error}") from None
        with its_line:
            try:
                self.process = _spawn(spawner, label, its_line.fileno(), run_folder, remembered)
            except BaseException:
                self._line.close()
                raise
        self.process.what = "the switch"
        self._line.setblocking(False)
        loop.loop.call_soon_threadsafe(loop.loop.add_reader, self._line, self._read)
        self.process.when_ended(self._lose)

    @property
    def pid(self) -> int:
        return self.process.pid

    def death(self) -> SwitchDied:
        """The error for whoever needs it, once it has ended."""
        return self.process.with_evidence(
            SwitchDied(f"{self.label}: its switch {self.process.verdict()}; every connection over it is gone")
        )

    # On the loop.

    async def ask(self, do: str, *descriptors: int, **request: Any) -> Any:
        """Have the switch do something; what it answers. Descriptors are copied.

        :raises SwitchDied: it has ended.
        :raises NetworkError: it cannot.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        data = json.dumps({"id": number, "do": do, **request}).encode()
        try:
            while True:
                if self.process.returncode is not None:
                    raise self.death()
                try:
                    socket.send_fds(self._line, [data], descriptors)
                    break
                except BlockingIOError:  # of which nothing tells when it has room
                    await asyncio.sleep(_FULL)
                except OSError:
                    raise await self._ended() from None
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await answer
            except TimeoutError:
                raise NetworkError(f"{self.label}: its switch did not answer within {_PATIENCE:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def answer(self, number: int, is_for: bool) -> None:
        """Say whether a fault is for a frame of which the switch has asked; in the order of the calls."""
        self._answers.append((number, is_for))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.ensure_future(self._answer())

    async def _answer(self) -> None:
        with contextlib.suppress(NetworkError):  # whoever ends the fault hears of it
            while answers := self._answers[:_ANSWERS]:
                del self._answers[:_ANSWERS]
                await self.ask("answer", answers=answers)

    async def _ended(self) -> NetworkError:
        if await self.process.wait_ended(_PATIENCE):
            return self.death()
        return NetworkError(f"{self.label}: its switch has hung up and runs on")

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := self._receive():
                self._take(json.loads(data))
            self._loop.loop.remove_reader(self._line)

    def _receive(self) -> bytes:
        try:
            return self._line.recv(_LARGEST_ANSWER)
        except ConnectionError:
            return b""

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"event": "asked", "number": number, "rule": rule, "pair": [source, target], "frame": frame}:
                self.on_asked(number, rule, (source, target), bytes.fromhex(frame))
            case {"event": "ended", "port": port, "why": why}:
                self.on_port_end(port, why)
            case {"event": "present", "mac": mac}:
                self.on_present(mac)
            case {"id": number} if (answer := self._waiting.get(number)) is not None and not answer.done():
                if "error" in message:
                    answer.set_exception(NetworkError(f"{self.label}: its switch: {message['error']}"))
                else:
                    answer.set_result(message["result"])

    def _lose(self) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self.death())

    async def end(self) -> None:
        """End it: by hanging up, and if it does not mind, by signals.

        :raises TimeoutError: the kernel does not end it.
        """
        self._loop.loop.remove_reader(self._line)
        self._line.close()
        if not await self.process.wait_ended(1.0):
            await self.process.end()


def _spawn(spawner: Spawner, label: str, line: int, run_folder: Path, remembered: int) -> Process:
    start = _START.format(folder=str(Path(__file__).parents[2]))
    # Without site-packages, and what else Python looks for at its start, it is there after half of the time.
    argv = (sys.executable, "-I", "-S", "-c", start, str(line), str(remembered))
    return spawner.start_confined(
        argv,
        name=f"{label}: its switch",
        env={name: os.environ[name] for name in _NEEDED if name in os.environ},
        pass_fds=(line,),
        run_folder=run_folder,
        bounds=Bounds(folder=None, tcp=False, devices=()) if landlock_abi() else None,
    )
