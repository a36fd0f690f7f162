"""Owns the conversation with an `ssh` that shares its connection: sessions on it, without a process for each.

The protocol is OpenSSH's own, version 4 since 2010:
https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.mux
"""

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Self

_VERSION = 4
_HELLO = 0x00000001
_NEW_SESSION = 0x10000002
_FAILURES = {0x80000002: "permission denied", 0x80000003: "refused"}
_SESSION_OPENED = 0x80000006
_EXITED = 0x80000004
_NO_ESCAPE = 0xFFFFFFFF
_REQUEST = 1


class Refused(Exception):
    """The shared connection gives no session: sshd has too many, or forbids them."""


class MuxSession:
    """One session: a command in the guest, and our ends of its streams. For the loop.

    Attributes: `stdio`, a socket that is its stdin and stdout; `stderr`, one more. Who uses them closes them.
    """

    def __init__(self) -> None:
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.setblocking(False)
        self.stdio, self._stdio_there = socket.socketpair()
        self.stderr, self._stderr_there = socket.socketpair()

    @classmethod
    async def open(cls, path: Path, command: str, *, is_one_stream: bool = False) -> Self:
        """Have the `ssh` that listens at `path` run a command, which the user's login shell reads.

        :param is_one_stream: what it prints to stderr comes by `stdio` as well.
        :raises Refused: it may not.
        :raises ConnectionError: that `ssh` is not there, or ended meanwhile.
        """
        session = cls()
        with session._stdio_there, session._stderr_there:
            try:
                await session._connect(path)
                await session._request(command, session._stdio_there if is_one_stream else session._stderr_there)
            except BaseException:
                for ours in (session._control, session.stdio, session.stderr):
                    ours.close()
                raise
        return session

    async def _connect(self, path: Path) -> None:
        try:
            await asyncio.get_running_loop().sock_connect(self._control, str(path))
        except FileNotFoundError:
            raise ConnectionRefusedError("the ssh that shares its connection has ended") from None
        await self._send(struct.pack(">II", _HELLO, _VERSION))
        kind, body = await self._receive()
        if kind != _HELLO or struct.unpack_from(">I", body)[0] != _VERSION:
            raise Refused("this ssh shares its connections by another protocol")

    async def _request(self, command: str, stderr: socket.socket) -> None:
        no_terminal_nor_forwarding = struct.pack(">IIII", 0, 0, 0, 0)
        await self._send(
            struct.pack(">II", _NEW_SESSION, _REQUEST)
            + _string(b"")
            + no_terminal_nor_forwarding
            + struct.pack(">I", _NO_ESCAPE)
            + _string(b"")
            + _string(os.fsencode(command))
        )
        for stream in (self._stdio_there, self._stdio_there, stderr):
            socket.send_fds(self._control, [b"\0"], [stream.fileno()])
        kind, body = await self._receive()
        if kind != _SESSION_OPENED:
            reason = body[8:].decode(errors="replace")
            raise Refused(f"{_FAILURES.get(kind, f'answer {kind:#x}')}: {reason}")

    async def status(self) -> int:
        """The exit status of the command, when it has ended.

        :raises ConnectionError: the connection is lost, or the shell that ran the command was killed.
        """
        while True:
            kind, body = await self._receive()
            if kind == _EXITED:
                return int(struct.unpack_from(">I", body, 4)[0])

    async def _send(self, message: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._control, _string(message))

    async def _receive(self) -> tuple[int, bytes]:
        """The next message: its kind and what follows it."""
        (length,) = struct.unpack(">I", await self._exactly(4))
        message = await self._exactly(length)
        return struct.unpack_from(">I", message)[0], message[4:]

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await asyncio.get_running_loop().sock_recv(self._control, size - len(data))
            if not piece:
                raise ConnectionResetError("the ssh that shares its connection ended")
            data += piece
        return data

    def close(self) -> None:
        """Let go of it, as a client's end would: the command loses its streams and is not killed."""
        self._control.close()


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
