"""Owns the transfer of a file over a session of its own, beside all else, on a connection that an `ssh` shares.

In the guest it goes through `cat` or `dd`, which have the session's streams.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from pytest_readonly_vm.channels.channel import Sink
from pytest_readonly_vm.channels.jobs import absolute, os_error
from pytest_readonly_vm.channels.ssh_mux import MuxSession
from pytest_readonly_vm.host.loop import cancel

_PIECE = 1 << 18  # bytes
_LONGEST_COMPLAINT = 1 << 12
# The same for every file, as what reads it first is the user's login shell, which need not be a POSIX one.
_COMMAND = """exec /bin/sh -c 'IFS= read -r line; eval "$line"' readonly-vm"""
_READ = b'cat "$f"'
_WRITE = b'dd bs=256k of="$f"'


async def read(control: Path, path: bytes, sink: Sink) -> None:
    """Give a file's content to the sink, over the `ssh` that listens at `control`.

    :raises Refused: as `MuxSession.open`; nothing has been done then.
    :raises ConnectionError: as `MuxSession.open` and `status`.
    :raises OSError: as `Channel.read_file`.
    """
    await _transfer(control, path, _READ, None, sink)


async def write(control: Path, path: bytes, content: AsyncIterator[bytes]) -> None:
    """Write a file; as `read`.

    :raises OSError: as `Channel.write_file`.
    """
    await _transfer(control, path, _WRITE, content, bytes)


async def _transfer(
    control: Path, path: bytes, program: bytes, content: AsyncIterator[bytes] | None, sink: Sink
) -> None:
    name = b"".join(b"\\%03o" % byte for byte in absolute(path))
    line = b"export LC_ALL=C; f=$(printf '%bx'); f=${f%%x}; %b; exit $?\n" % (name, program)
    complaint = bytearray()
    session = await MuxSession.open(control, _COMMAND)
    with contextlib.ExitStack() as stack:
        stack.callback(session.close)
        output, input = await asyncio.open_connection(sock=session.stdio)
        stack.callback(input.close)
        errors, error_writer = await asyncio.open_connection(sock=session.stderr)
        stack.callback(error_writer.close)
        works = [
            session.status(),
            _feed(input, line, content),
            _drain(errors, lambda piece: complaint.extend(piece[: _LONGEST_COMPLAINT - len(complaint)])),
        ]
        if content is None:
            works.append(_drain(output, sink))
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            status, *_ = await asyncio.gather(*tasks)
        finally:
            await cancel(*tasks)
    if status != 0:
        lines = [line for line in complaint.decode(errors="replace").splitlines() if ": " in line]
        raise os_error("".join(lines[:1]), path)


async def _feed(writer: asyncio.StreamWriter, line: bytes, content: AsyncIterator[bytes] | None) -> None:
    """Write all that the command is to read. One that has ended before reads no more, which its status tells."""
    writer.write(line)
    if content is not None:
        async for piece in content:
            writer.write(piece)
            try:
                await writer.drain()
            except ConnectionError:
                return
    writer.write_eof()


async def _drain(reader: asyncio.StreamReader, sink: Sink) -> None:
    while piece := await reader.read(_PIECE):
        sink(piece)
