"""Owns a resident shell in the guest that takes one script after another: a session on an `ssh` connection.

To log in a session costs an emulated guest 70 ms and more, so one serves as many scripts as it can. What the scripts
print comes directly, between marks that contain a number which only the two ends know.
"""

import asyncio
import contextlib
import os
import secrets
import shlex
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

from pytest_readonly_vm.channels.channel import Sink
from pytest_readonly_vm.channels.ssh_mux import Multiplexed

# Each line of input is shell text that sets `script`, and `own` if the script shall have the rest of the input.
# A script is followed by the next one only when no process that it has started can print any more, or is left in the
# session: else one script would have another's output, or be killed with it. Such a process has a higher number than
# the last one before the script, as long as numbers do not begin anew. All that is done without starting a process.
_PORTER = r"""
exec 3>&2 2>/dev/null 4</dev/null
mark() { printf '\000%s%s\n' "$nonce" "$1"; printf '\000%s%s\n' "$nonce" "$1" >&3; }
is_alone() {
    read -r _ _ _ _ now </proc/loadavg || return
    [ "$now" -gt "$before" ] || return
    [ "$now" -gt $((before + 1)) ] || return 0
    for p in /proc/[0-9]*; do
        [ "${p#/proc/}" -gt "$before" ] || continue
        read -r line <"$p/stat" || continue
        set -- ${line##*) }
        [ "$4" != "$$" ] && [ -x "$p/fd" ] || return
        for f in "$p"/fd/*; do
            [ ! "$f" -ef /proc/$$/fd/1 ] && [ ! "$f" -ef /proc/$$/fd/3 ] || return
        done
    done
    read -r _ _ _ _ later </proc/loadavg && [ "$later" = "$now" ]
}
IFS= read -r nonce
while own=; IFS= read -r line; do
    eval "$line"
    read -r _ _ _ _ before </proc/loadavg
    mark "($$"
    (
        [ "$own" ] || exec <&4
        exec 2>&3 3>&- 4<&-
        [ ! -x /bin/sh ] || exec /bin/sh -c "$script"
        eval "$script"
    )
    mark ")$?"
    [ ! "$own" ] && is_alone || break
done
mark .
"""
# Its text goes by its input as well, so that a list of the guest's processes stays readable.
_COMMAND = """exec /bin/sh -c 'n="\n"; IFS= read -r line; eval "$line"' readonly-vm"""


_LONGEST_WORD = 64  # bytes between a mark and its end


class Retired(Exception):
    """The porter takes no more scripts, and has not begun with this one."""


class Vanished(Exception):
    """The porter is gone, in the middle of a script or with its connection. The message says more."""


class _Stream(asyncio.Protocol):
    """Takes marks out of what comes, and gives a sink what is between them."""

    def __init__(
        self,
        mark: bytes,
        on_mark: Callable[["_Stream", bytes], None],
        on_end: Callable[[], None],
        on_trouble: Callable[[Exception], None],
    ) -> None:
        self._mark = mark
        self._on_mark = on_mark
        self._on_end = on_end
        self._on_trouble = on_trouble
        self._held = b""
        self.sink: Sink | None = None
        """Set while a script runs and has not been said to have ended."""
        self.begun = False

    def data_received(self, data: bytes) -> None:
        data = self._held + data
        while (start := data.find(self._mark)) >= 0 and (end := data.find(b"\n", start)) >= 0:
            self._give(data[:start])
            self._on_mark(self, data[start + len(self._mark) : end])
            data = data[end + 1 :]
        if start < 0:
            # The mark's first byte is in no other place of it.
            start = data.rfind(self._mark[:1], max(0, len(data) - len(self._mark)))
            if start < 0 or not self._mark.startswith(data[start:]):
                start = len(data)
        self._held = data[start:]
        self._give(data[:start])
        if len(self._held) > len(self._mark) + _LONGEST_WORD:
            self._on_trouble(Vanished("it sends a mark without an end"))

    def _give(self, data: bytes) -> None:
        if self.begun and self.sink and data:
            try:
                self.sink(data)
            except Exception as refusal:  # the sink's own
                self._on_trouble(refusal)

    def connection_lost(self, _: Exception | None) -> None:
        self._give(self._held)
        self._held = b""
        self._on_end()


class Porter:
    """The host's end of one resident shell. Everything is for the loop.

    Attributes: `pid`, of the shell in the guest, which leads the session, once it has begun with a script; `retired`,
    whether it takes no more; `gone`, an event: it has ended, and nobody has its streams any more.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.retired = False
        self.gone = asyncio.Event()
        self._nonce = secrets.token_hex(16)
        self._input, self._input_there = socket.socketpair()
        self._input.setblocking(False)
        mark = f"\0{self._nonce}".encode()
        self._streams = [_Stream(mark, self._marked, self._stream_ended, self._give_up) for _ in range(2)]
        self._transports: list[asyncio.BaseTransport] = []
        self._open_streams = 2
        self._session: Multiplexed | None = None
        self._begun = asyncio.Event()
        self._status: asyncio.Future[int] | None = None
        self._feeding: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, control: Path) -> Self:
        """Have one over the `ssh` that listens at `control`.

        :raises Refused, ConnectionError: as `Multiplexed.open`.
        """
        porter = cls()
        with contextlib.ExitStack() as theirs:
            theirs.callback(porter._input_there.close)
            try:
                ends = [await porter._output(stream, theirs) for stream in porter._streams]
                stdin = porter._input_there.fileno()
                porter._session = await Multiplexed.open(control, _COMMAND, stdin=stdin, stdout=ends[0], stderr=ends[1])
                await porter._send(b"eval %b\n%b\n" % (_on_a_line(_PORTER.encode()), porter._nonce.encode()))
            except BaseException:
                porter.drop()
                raise
        return porter

    async def _output(self, stream: _Stream, theirs: contextlib.ExitStack) -> int:
        ours, other = os.pipe()
        theirs.callback(os.close, other)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: stream, os.fdopen(ours, "rb", 0))
        self._transports.append(transport)
        return other

    async def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended, which its streams tell
            await asyncio.get_running_loop().sock_sendall(self._input, data)

    async def run(self, script: bytes, content: AsyncIterator[bytes] | None, stdout: Sink, stderr: Sink) -> int:
        """Run a script to its end. With `content` as its input it is the last one.

        :raises Retired: it was not begun.
        :raises Vanished: it was, and nobody will know how it ended.
        :raises Exception: what the content raised.
        """
        for stream, sink in zip(self._streams, (stdout, stderr), strict=True):
            stream.sink, stream.begun = sink, False
        self._begun.clear()
        self._status = asyncio.get_running_loop().create_future()
        if self.retired:
            raise Retired
        self._feeding = asyncio.ensure_future(self._feed(script, content))
        try:
            return await self._status
        finally:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)

    async def _feed(self, script: bytes, content: AsyncIterator[bytes] | None) -> None:
        await self._send(b"script=%b own=%b\n" % (_on_a_line(script), b"" if content is None else b"1"))
        if content is not None:
            self.retired = True
            await self._begun.wait()  # until then another porter may have to take it
            try:
                async for piece in content:
                    await self._send(piece)
            except Exception as error:  # the content's own
                self._give_up(error)
            else:
                self._input.shutdown(socket.SHUT_WR)

    def _marked(self, stream: _Stream, text: bytes) -> None:
        kind, value = text[:1], text[1:]
        if kind in b"()" and not value.isdigit():
            self._give_up(Vanished(f"it sends {value!r:.80} where a number should be"))
        elif kind == b"(":
            stream.begun = True
            self.pid = int(value)
            self._begun.set()
        elif kind == b")":
            stream.sink = None
            if self._status and not self._status.done() and not any(stream.sink for stream in self._streams):
                self._status.set_result(int(value))
        else:
            self.retired = True
            if not self._begun.is_set():
                self._fail(Retired())

    def _stream_ended(self) -> None:
        self._open_streams -= 1
        if self._open_streams == 0:
            self.retired = True
            self._fail(
                Vanished("the connection was lost, or the script's shell was killed")
                if self._begun.is_set()
                else Retired()
            )
            self.gone.set()
            self.drop()

    def _give_up(self, error: Exception) -> None:
        self._fail(error)
        self.drop()

    def _fail(self, error: Exception) -> None:
        if self._status and not self._status.done():
            self._status.set_exception(error)

    @property
    def is_busy(self) -> bool:
        return self._status is not None and not self._status.done()

    async def begun(self) -> bool:
        """Wait until the script has begun; False if it never will."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._begun, self.gone)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._begun.is_set()

    def drop(self) -> None:
        """Let go of it. It ends by itself; what still has its streams in the guest cannot write to them any more."""
        self.retired = True
        if self._feeding and not self._feeding.done():
            self._feeding.add_done_callback(lambda _: self._input.close())
            self._feeding.cancel()
        else:
            self._input.close()
        if self._session:
            self._session.close()
        for transport in self._transports:
            transport.close()


def _on_a_line(text: bytes) -> bytes:
    """A text, quoted for a shell whose variable ``n`` is a line feed, and without one."""
    return os.fsencode(shlex.quote(os.fsdecode(text))).replace(b"\n", b"'\"$n\"'")
