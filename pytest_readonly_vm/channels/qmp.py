"""Owns the conversation with QEMU's monitor (QMP): commands, events, the end of both. The only importer of `qemu.qmp`.

The protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html, the commands and events:
https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html.
"""

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate, StateError
from qemu.qmp.message import Message

from pytest_readonly_vm.channels.history import History, HistoryEntry
from pytest_readonly_vm.channels.liveness import Liveness
from pytest_readonly_vm.errors import ConnectionLost, GuestPaused, QmpError, VmError, WaitTimeout
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process

T = TypeVar("T")

_EVENTS_KEPT = 1000
_LONGEST_KEPT = 50  # items; the answer of query-qmp-schema has thousands
_LONGEST_REPLY = 256 << 20  # bytes; a longer line would break the connection
_LONGEST_TURN = 0.005  # seconds
_SHORTEST_WAIT = 0.001  # seconds between two messages, in which others have had their turn
_PATIENCE_WITH_THE_DYING = 2.0  # seconds by which a connection may end before its QEMU
_OF_QEMU = re.compile(
    r"STOP|RESUME|WAKEUP|RESET|SHUTDOWN|POWERDOWN|DUMP_COMPLETED|DEVICE_(?:DELETED|TRAY_MOVED)|QUORUM_\w+|CHARDEV_\w+"
    r"|(?:JOB|BLOCK_JOB|BLOCK_EXPORT|BLOCK_WRITE|MIGRATION|NETDEV|VNC|SPICE|XEN|COLO|VFU|RDMA)_\w+|UNPLUG_PRIMARY"
)
"""Events that come of what QEMU is told or does by itself, so of a guest that stands still as well."""


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """Something that QEMU reported by itself. `time` is the host's clock, seconds since the epoch."""

    name: str
    data: Mapping[str, Any]
    time: float
    number: int = field(compare=False)
    """Counts the events of one machine, from 0."""


Match = Callable[[QmpEvent], bool] | Mapping[str, object] | None
"""Which event of a name is meant: a function of the event, items that its data must have, or any."""


class Qmp:
    """The monitor of one machine.

    Every method may be called from any thread; the ones with an ``a`` in front, from any event loop.
    """

    def __init__(self, loop: LoopThread, process: Process, name: str) -> None:
        self._loop = loop
        self._process = process
        self.liveness = Liveness(process)
        """What becomes of the guest; others of the machine wait by it, too."""
        self.history = History()
        """Of the machine; others of the machine write to it, too."""
        self.name = name
        """The machine's, for messages."""
        self._client = _FairClient("readonly-vm", readbuflen=_LONGEST_REPLY)
        self._client.logger.setLevel(logging.CRITICAL)  # it logs expected ends as errors
        # A filter that keeps nothing: the library would remember every event for ever.
        self._client.events.event_filter = self._hear
        self._events: deque[QmpEvent] = deque(maxlen=_EVENTS_KEPT)
        self._taken: set[int] = set()
        self._forgotten = 0
        self.heard = 0
        """How many events have come: the next one's number."""
        self._news = asyncio.Event()
        self._handing_over = asyncio.Lock()
        self.listeners: list[Callable[[QmpEvent], None]] = []
        """Functions, called on the loop with every event."""
        self._watch: asyncio.Task[None] | None = None
        process.drains.append(self._hear_out)

    # On the loop's thread.

    async def connect(self, monitor: socket.socket) -> Self:
        """Greet QEMU at the other end of a socket; on the loop.

        :raises GuestDied: QEMU ended instead of answering.
        """
        await self._process.race(self._greet(monitor))
        self._watch = asyncio.ensure_future(self._watch_connection())
        return self

    async def _watch_connection(self) -> None:
        """Wake everybody when the connection ends while QEMU lives: nobody would hear of the guest's end any more."""
        await self._hear_out()
        if not await self._process.wait_ended(_PATIENCE_WITH_THE_DYING):
            self.liveness.report_end(lambda: self._process.with_evidence(self._lost("QEMU lives")))

    async def _greet(self, monitor: socket.socket) -> None:
        try:
            await self._client.connect(monitor)
        except ConnectError as error:
            raise await self._broken(error) from None

    def _hear(self, message: Message) -> bool:
        stamp = message.get("timestamp", {})
        at = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6 if isinstance(stamp, dict) else 0.0
        data = message.get("data", {})
        event = QmpEvent(str(message["event"]), data if isinstance(data, dict) else {}, at, self.heard)
        self._events.append(event)
        self.heard += 1
        self.history.note("event", event.name, detail=event.data)
        for listener in self.listeners:
            listener(event)
        if self._taken and (oldest := self._events[0].number) > min(self._taken):
            self._taken = {number for number in self._taken if number >= oldest}
        self._news.set()
        self._news = asyncio.Event()
        return False

    async def command(
        self, name: str, arguments: Mapping[str, object] = MappingProxyType({}), timeout: float = 60.0
    ) -> Any:
        """As `execute`, on the loop."""
        try:
            async with asyncio.timeout(timeout):
                return await self._process.race(self._exchange(name, arguments))
        except TimeoutError:
            raise WaitTimeout(f"{self.name}: QEMU did not answer {name} within {timeout:g} s") from None

    async def _exchange(self, name: str, arguments: Mapping[str, object]) -> Any:
        with self.history.noting("qmp", name) as entry:
            answer = await self._execute(name, arguments, entry)
            is_long = isinstance(answer, list) and len(answer) > _LONGEST_KEPT
            entry.detail = {"arguments": arguments, "return": f"{len(answer)} items" if is_long else answer}
        return answer

    async def _execute(self, name: str, arguments: Mapping[str, object], entry: HistoryEntry) -> Any:
        entry.detail = {"arguments": arguments}
        try:
            return await self._client.execute(name, arguments or None)
        except ExecuteError as error:
            refusal = QmpError(name, arguments, error.error_class, str(error))
            if "Permission denied" in str(error):
                refusal.add_note("QEMU may write only below the machine's own folder; see the setting seal")
            raise refusal from None
        except (ExecInterruptedError, StateError, EOFError, OSError) as error:
            raise await self._broken(error) from None

    async def _broken(self, cause: BaseException) -> VmError:
        return await self._process.death_or(self._lost(str(cause)))

    def _lost(self, why: str) -> ConnectionLost:
        return ConnectionLost(f"{self.name}: the connection to QEMU's monitor broke: {why}")

    async def attempt(self, name: str, arguments: Mapping[str, object] = MappingProxyType({})) -> None:
        """Run a command that tidies up: its refusal means that there was nothing to do."""
        with contextlib.suppress(QmpError):
            await self.command(name, arguments)

    async def hand_over(self, descriptor: int) -> int:
        """Give QEMU a copy of an open descriptor; on the loop. It is ``/dev/fdset/N`` there, this returns N."""
        async with self._handing_over:  # QEMU keeps the descriptor that came last for the next command that wants one
            self._client.send_fd_scm(descriptor)
            return int((await self.command("add-fd"))["fdset-id"])

    async def give(self, descriptor: int, name: str) -> None:
        """Give QEMU a copy of an open descriptor under a name, as migration takes it; on the loop."""
        async with self._handing_over:
            self._client.send_fd_scm(descriptor)
            await self.command("getfd", {"fdname": name})

    async def next_event(
        self, name: str, match: Match = None, timeout: float = 30.0, *, of_guest: bool = False
    ) -> QmpEvent:
        """As `wait_event`, on the loop; the guest's end ends the wait only if it is for an event `of_guest`."""
        try:
            async with asyncio.timeout(timeout):
                halts = self.liveness.halts
                is_of_qemu = _OF_QEMU.fullmatch(name) is not None
                known = self.liveness.cause if is_of_qemu or not self.liveness.has_ended else None
                # Taken here and not in the race, whose result is lost when the deadline comes in the same moment.
                while not (event := self._take(name, match)):
                    if not of_guest:
                        await self._process.race(self._news.wait())
                        continue
                    try:
                        if self.liveness.cause is not known:  # since the last turn
                            self.liveness.check()
                        await self.liveness.news(self._news)
                    except VmError as end:
                        if event := self._take(name, match):  # which may be what has stopped the guest
                            return event
                        if not (isinstance(end, GuestPaused) and (is_of_qemu or halts == self.liveness.halts)):
                            raise
                        known = self.liveness.cause
                return event
        except TimeoutError:
            error = WaitTimeout(f"{self.name}: no event {name} came within {timeout:g} s")
            error.add_note(self._events_so_far())
            raise error from None

    def _take(self, name: str, match: Match) -> QmpEvent | None:
        for event in self._events:
            known = event.number < self._forgotten or event.number in self._taken
            if event.name == name and not known and _matches(event, match):
                self._taken.add(event.number)
                return event
        return None

    def _events_so_far(self) -> str:
        events = [f"{event.name} {dict(event.data)}" if event.data else event.name for event in self._events]
        return "Events so far: " + (", ".join(events[-10:]) or "none")

    async def _hear_out(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    async def disconnect(self) -> None:
        """Let go of the connection, in whatever state it is; on the loop."""
        if self._watch is not None:
            self._watch.cancel()
        # After the end of QEMU the library reports the broken connection once more.
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.disconnect()

    # On any thread.

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, /, *, timeout: float = 60.0, **named: object
    ) -> Any:
        """Run a QMP command and return its answer: usually a dict, as QEMU's reference says.

        Arguments given by name are sent with hyphens for underscores, ``job_id=`` as ``job-id``; those in the mapping
        ``arguments`` are sent as they are.

        :param timeout: seconds to wait for the answer.
        :raises QmpError: QEMU refused the command.
        :raises GuestDied: QEMU ended, before or meanwhile; raised at once.
        :raises WaitTimeout: no answer came in time.
        :raises ConnectionLost: the connection broke although QEMU lives.
        """
        return self._loop.run(self.command(command, _merged(arguments, named), timeout))

    async def aexecute(
        self, command: str, arguments: Mapping[str, object] | None = None, /, *, timeout: float = 60.0, **named: object
    ) -> Any:
        """As `execute`, for async tests, under asyncio, pytest-asyncio, and anyio with either back end."""
        return await self._from_elsewhere(self.command(command, _merged(arguments, named), timeout))

    def wait_event(self, name: str, match: Match = None, timeout: float = 30.0) -> QmpEvent:
        """Return the first event of this name that no wait has returned before; one that already came counts.

        :param match: a function of the event, or a mapping whose items the event's ``data`` must have.
        :param timeout: seconds to wait.
        :raises WaitTimeout: it did not come; a note lists the events that did.
        :raises GuestDied: the guest came to its end while waiting, of which QEMU reports something else, or before.
        :raises GuestPaused: it has begun to stand still meanwhile. Events of QEMU's own (``JOB_…``, ``MIGRATION``,
            ``RESUME``, ``RESET``, …) are waited for all the same, after the end of a guest whose QEMU lives as well.
        """
        with self.history.noting("wait", f"event: {name}"):
            return self._loop.run(self.next_event(name, match, timeout, of_guest=True))

    async def await_event(self, name: str, match: Match = None, timeout: float = 30.0) -> QmpEvent:
        """As `wait_event`, for async tests."""
        return await self._from_elsewhere(self.next_event(name, match, timeout, of_guest=True))

    async def _from_elsewhere(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._loop.run_from_elsewhere(work)

    @property
    def events(self) -> tuple[QmpEvent, ...]:
        """The latest events, oldest first, at most 1000, whether a wait returned them or not."""
        return tuple(self._events)

    def forget_events(self) -> None:
        """Let waits see only what comes from now on. `events` still shows the past."""
        self._forgotten = self.heard


class _FairClient(QMPClient):
    """Lets others of the loop have their turn, also while a guest causes events faster than they can be read."""

    _turn_began = _turn_ended = 0.0

    async def _on_message(self, msg: Message) -> None:
        began = time.monotonic()
        if began - self._turn_ended > _SHORTEST_WAIT:
            self._turn_began = began
        await super()._on_message(msg)
        self._turn_ended = time.monotonic()
        if self._turn_ended - self._turn_began > _LONGEST_TURN and self._writer is not None:
            # Read on only when what has been read is used up: the library's buffer has no bound of use to us.
            transport = cast(asyncio.Transport, self._writer.transport)
            transport.pause_reading()
            await asyncio.sleep(0)
            transport.resume_reading()
            self._turn_began = self._turn_ended = time.monotonic()


def _matches(event: QmpEvent, match: Match) -> bool:
    if match is None:
        return True
    if isinstance(match, Mapping):
        return all(key in event.data and event.data[key] == value for key, value in match.items())
    return bool(match(event))


def _merged(arguments: Mapping[str, object] | None, named: Mapping[str, object]) -> dict[str, object]:
    return {**(arguments or {}), **{key.replace("_", "-"): value for key, value in named.items()}}
